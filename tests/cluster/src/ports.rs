//! Ports that nobody else listens on.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the range from which the kernel serves those who ask for any port, so that a port stays
/// free while its node is down.
const FIRST: u16 = 11_000;
const COUNT: u16 = 20_000;

/// A port that is free now, and that no other cluster of this process was given.
pub fn free_port() -> u16 {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    let next = NEXT.get_or_init(|| AtomicU16::new(rand::random_range(0..COUNT)));
    loop {
        let port = FIRST + next.fetch_add(1, Ordering::Relaxed) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
