//! Codes by which errors are documented, and those that failures carry.

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A documented code, shown in logs, in an invocation's status and in the admin API's errors.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
        }

        impl ErrorCode {
            /// The code, as in `RT0010`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

error_codes! {
    /// The abort timeout fired.
    Rt0001 = "RT0001",
    /// A message is over the size limit.
    Rt0003 = "RT0003",
    /// The journal or the state could not be read.
    Rt0006 = "RT0006",
    /// The handler failed and may be retried.
    Rt0007 = "RT0007",
    /// The endpoint could not be reached, or the connection broke.
    Rt0010 = "RT0010",
    /// No deployment for the service, or the pinned one is gone.
    Rt0011 = "RT0011",
    /// The endpoint broke the protocol.
    Rt0012 = "RT0012",
    /// No protocol version in common.
    Rt0013 = "RT0013",
    /// The pinned protocol version is not spoken any more.
    Rt0014 = "RT0014",
    /// The endpoint refused the negotiated version.
    Rt0015 = "RT0015",
    /// The replay does not match the journal.
    Rt0016 = "RT0016",
    /// A command's precondition does not hold.
    Rt0017 = "RT0017",
    /// The callee's service or handler is not registered.
    Rt0018 = "RT0018",
    /// The endpoint answered that the journal is too large.
    Rt0019 = "RT0019",
    /// The service's deployment speaks a dropped protocol version.
    Rt0020 = "RT0020",
    /// The inactivity timeout is ignored in request-response mode.
    Rt0021 = "RT0021",
    /// The journal retention was clamped.
    Rt0022 = "RT0022",
    /// The endpoint limits the rate.
    Rt0023 = "RT0023",
    /// A scope or limit key is not right here.
    Rt0024 = "RT0024",
    /// The await tree is nested too deep.
    Rt0025 = "RT0025",
    /// The endpoint was not reached at discovery, or answered with a bad status.
    Meta0003 = "META0003",
    /// The address is registered already.
    Meta0004 = "META0004",
    /// The service's name is reserved.
    Meta0005 = "META0005",
    /// The service's type changed.
    Meta0006 = "META0006",
    /// A subscription's source or sink is not one.
    Meta0009 = "META0009",
    /// The endpoint's protocol range does not meet the engine's.
    Meta0012 = "META0012",
    /// The discovery response is not one.
    Meta0013 = "META0013",
    /// The endpoint probably speaks HTTP/1.1 only.
    Meta0014 = "META0014",
    /// Bidirectional streams are not possible here.
    Meta0015 = "META0015",
    /// The deployment cannot be replaced in place.
    Meta0016 = "META0016",
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Codes of failures and errors beyond what HTTP says of them.
pub mod invocation_code {
    /// Not known.
    pub const NOT_FOUND: u16 = 404;
    /// Canceled, killed, or done already.
    pub const CONFLICT: u16 = 409;
    /// Was known once.
    pub const GONE: u16 = 410;
    /// The protocol version is refused.
    pub const UNSUPPORTED_MEDIA_TYPE: u16 = 415;
    /// The output is not there yet.
    pub const NOT_READY: u16 = 470;
    /// Anything else.
    pub const INTERNAL: u16 = 500;
    /// The replay does not match the journal.
    pub const JOURNAL_MISMATCH: u16 = 570;
    /// A peer sent something unexpected.
    pub const PROTOCOL_VIOLATION: u16 = 571;
    /// A handler awaits two things in a way that its SDK does not allow.
    pub const AWAITING_TWO_ASYNC_RESULTS: u16 = 572;
    /// A feature needs a newer protocol version.
    pub const UNSUPPORTED_FEATURE: u16 = 573;
    /// The SDK's state machine is closed.
    pub const CLOSED: u16 = 598;
    /// The SDK is suspended.
    pub const SUSPENDED: u16 = 599;
}
