//! The HTTP service from outside.
//!
//! | | |
//! | --- | --- |
//! | `tables`, and `*.txt` beside this file | requests and answers as they stand on the wire, each with its section of the RFC |
//! | `page` | the fixed answer, and connections |
//! | `files` | files that change, files that are large, limits, the access log |
//! | `clients` | `curl`, `wget`, `ab`, `wrk`, `slowhttptest` (ignored by default: they have to be installed) |
//! | `browser` | a page with a video in headless Chromium (ignored by default) |

#[path = "../support/mod.rs"]
mod support;

mod browser;
mod clients;
mod files;
mod page;
mod site;
mod tables;
