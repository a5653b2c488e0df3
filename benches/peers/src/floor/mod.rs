//! The least that the kernel lets a service cost, beside which the others are measured.

pub mod answers;
pub mod fanout;
