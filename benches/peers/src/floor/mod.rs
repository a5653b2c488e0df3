//! The least that the kernel lets a service cost: the base beside which servers are measured.

pub mod answers;
pub mod fanout;
