//! What may be done, and when? The second pure room: no I/O, no clock, no randomness.
//!
//! A [`Diagnosis`](amend_diagnosis::diagnosis::Diagnosis) and a [`Policy`](policy::Policy) become a
//! [`Plan`](plan::Plan); [`gate`] says whether it may be carried out. Nothing here knows how that is done.

pub mod action;
pub mod canonical;
pub mod configuration;
pub mod duration;
pub mod field;
pub mod gate;
pub mod grant;
pub mod library;
pub mod lint;
pub mod manifest;
pub mod matching;
pub mod percentage;
pub mod plan;
pub mod planning;
pub mod policy;
pub mod quantity;
pub mod risk;
pub mod verdict;
