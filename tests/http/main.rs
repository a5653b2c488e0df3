//! The HTTP service from outside.
//!
//! | | |
//! | --- | --- |
//! | `tables`, and `*.txt` beside this file | requests and answers as sent, each with its section of the RFC |
//! | `page` | the fixed answer, and connections |
//! | `files` | files that change, files that are large, limits, the access log |
//! | `replaced` | roots and volumes that are replaced by name, and directories that may only be searched |
//! | `slow`, `fuse` | a file system that answers when the test lets it (ignored by default: mounting takes root) |
//! | `validators` | tags and dates of files that are replaced, and siblings that are outdated |
//! | `listings` | directories of more names than one page has |
//! | `clients` | `curl`, `wget`, `ab`, `wrk`, `slowhttptest` (ignored by default: the programs must be installed) |
//! | `browser` | a page with a video in headless Chromium (ignored by default) |

#[path = "../support/mod.rs"]
mod support;

mod browser;
mod clients;
mod files;
mod listings;
mod page;
mod replaced;
mod site;
mod slow;
mod tables;
mod validators;
