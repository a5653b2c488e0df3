//! What the services are called: on standard output, in logs, and by whoever passes listeners in.

pub const ECHO: &str = "echo";
pub const CHAT: &str = "chat";
pub const HTTP: &str = "http";

pub const ALL: [&str; 3] = [ECHO, CHAT, HTTP];
