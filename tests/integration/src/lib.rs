//! The integration tests' own library: the guests they run in, and what the tests themselves need.
//!
//! [`guest`] is the host's side. The rest is used inside: [`registry`] collects and runs tests,
//! [`agent`] starts `kernelseal` with the configurations that [`config`] makes ([`quiet`] one that nobody listens to),
//! [`process`] other programs, [`probe`] those of `fixtures/`, [`programs`] ordinary ones (a [`system`] of their own), [`namespace`] puts them where a
//! pod would, [`container`] in one of its containers, [`terminal`] before somebody who types, [`scratch`] gives a folder for files. [`idle`] attaches programs of the kernel that do nothing. [`leftovers`] are what is left of sealed programs.

#![allow(
    clippy::missing_errors_doc,
    reason = "everything that can fail returns anyhow::Result, and the error says what failed"
)]

pub mod agent;
mod capture;
pub mod config;
pub mod container;
pub mod guest;
pub mod hang;
pub mod idle;
pub mod leftovers;
pub mod namespace;
pub mod pinned;
pub mod pod;
pub mod probe;
pub mod process;
pub mod programs;
pub mod quiet;
pub mod registry;
pub mod scratch;
pub mod system;
pub mod terminal;
