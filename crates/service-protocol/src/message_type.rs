//! The type codes of frames.

macro_rules! message_types {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// What a frame holds.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum MessageType {
            $($(#[$doc])* $name = $code,)*
        }

        impl MessageType {
            /// The type of a code; `None` for those that no version up to 7 knows.
            pub const fn from_code(code: u16) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Its name, as in `GetLazyState`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// Every type, by rising code.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

message_types! {
    /// Server: the first frame.
    Start = 0x0000,
    /// Endpoint, terminal: waits for something.
    Suspension = 0x0001,
    /// Endpoint, terminal: the attempt failed.
    Error = 0x0002,
    /// Endpoint, terminal: the handler has ended.
    End = 0x0003,
    /// Server: a command is stored.
    CommandAck = 0x0004,
    /// Endpoint: the result of a run, to be stored.
    ProposeRunCompletion = 0x0005,
    /// Endpoint, since 7: a hint what the handler waits for.
    AwaitingOn = 0x0006,
    /// Server, since 7: the result of a run is stored.
    ProposeRunCompletionAck = 0x0007,
    /// Entry 0: what the handler is called with.
    Input = 0x0400,
    /// The handler's result.
    Output = 0x0401,
    /// Asks for a state value.
    GetLazyState = 0x0402,
    /// Sets a state value.
    SetState = 0x0403,
    /// Removes a state value.
    ClearState = 0x0404,
    /// Removes all state of the key.
    ClearAllState = 0x0405,
    /// Asks for the keys of the state.
    GetLazyStateKeys = 0x0406,
    /// Records a state value that came with Start.
    GetEagerState = 0x0407,
    /// Records the state keys that came with Start.
    GetEagerStateKeys = 0x0408,
    /// Waits for a promise.
    GetPromise = 0x0409,
    /// Asks whether a promise is completed.
    PeekPromise = 0x040A,
    /// Completes a promise.
    CompletePromise = 0x040B,
    /// Waits for a time.
    Sleep = 0x040C,
    /// Calls a handler and waits for its result.
    Call = 0x040D,
    /// Calls a handler, now or later, without waiting.
    OneWayCall = 0x040E,
    /// Sends a signal to an invocation.
    SendSignal = 0x0410,
    /// Marks where a side effect stands.
    Run = 0x0411,
    /// Waits for the result of another invocation.
    AttachInvocation = 0x0412,
    /// Asks for the result of another invocation.
    GetInvocationOutput = 0x0413,
    /// Completes an awakeable.
    CompleteAwakeable = 0x0414,
    /// Answers `GetLazyState`.
    GetLazyStateCompletion = 0x8002,
    /// Answers `GetLazyStateKeys`.
    GetLazyStateKeysCompletion = 0x8006,
    /// Answers `GetPromise`.
    GetPromiseCompletion = 0x8009,
    /// Answers `PeekPromise`.
    PeekPromiseCompletion = 0x800A,
    /// Answers `CompletePromise`.
    CompletePromiseCompletion = 0x800B,
    /// Answers `Sleep`.
    SleepCompletion = 0x800C,
    /// Answers `Call` with the callee's result.
    CallCompletion = 0x800D,
    /// Answers `Call` and `OneWayCall` with the callee's id.
    CallInvocationIdCompletion = 0x800E,
    /// The stored result of a run.
    RunCompletion = 0x8011,
    /// Answers `AttachInvocation`.
    AttachInvocationCompletion = 0x8012,
    /// Answers `GetInvocationOutput`.
    GetInvocationOutputCompletion = 0x8013,
    /// A signal has come.
    Signal = 0xFBFF,
}

/// What a type code is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageClass {
    /// Concerns the stream and is not stored.
    Control,
    /// What the handler did; a journal entry.
    Command,
    /// What the handler is told; a journal entry.
    Notification,
    /// Reserved for commands of users' own.
    CustomCommand,
}

impl MessageClass {
    /// The class of any code, known or not.
    pub const fn of(code: u16) -> Self {
        match code {
            0x0000..=0x03FF => Self::Control,
            0x0400..=0x7FFF => Self::Command,
            0x8000..=0xFBFF => Self::Notification,
            0xFC00.. => Self::CustomCommand,
        }
    }
}

impl MessageType {
    /// Its number on the wire.
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// Whether it is a control message, a command or a notification.
    pub const fn class(self) -> MessageClass {
        MessageClass::of(self.code())
    }
}

impl From<MessageType> for u16 {
    fn from(ty: MessageType) -> Self {
        ty.code()
    }
}

impl std::fmt::Display for MessageType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_read_back_and_rise() {
        for ty in MessageType::ALL {
            assert_eq!(MessageType::from_code(ty.code()), Some(*ty));
        }
        assert!(MessageType::ALL.is_sorted());
        assert_eq!(MessageType::ALL.len(), 40);
        assert_eq!(MessageType::from_code(0x040F), None);
        assert_eq!(MessageType::from_code(0x0200), None);
    }

    #[test]
    fn classes_follow_the_ranges() {
        assert_eq!(MessageType::End.class(), MessageClass::Control);
        assert_eq!(MessageType::Input.class(), MessageClass::Command);
        assert_eq!(MessageType::Signal.class(), MessageClass::Notification);
        assert_eq!(MessageClass::of(0xFC00), MessageClass::CustomCommand);
    }
}
