//! The services' names: on standard output, in logs, and for inherited listeners.

pub const ECHO: &str = "echo";
pub const CHAT: &str = "chat";
pub const HTTP: &str = "http";

pub const ALL: [&str; 3] = [ECHO, CHAT, HTTP];
