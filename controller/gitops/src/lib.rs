//! Git and forges in the words of the rooms below: where an object lives, one commit, one pull request.
//!
//! Everything that leaves this room is repeatable: commits are deterministic, pushes name the commit that they
//! expect to find, a pull request is found by its marker before one is opened.

pub mod access;
pub mod body;
pub mod egress;
pub mod error;
pub mod forge;
pub mod locate;
pub mod path;
pub mod proposal;
pub mod render;
pub mod repo;
mod transport;
pub mod untrusted;

pub use access::{Author, GitAccess, Login, normalised};
pub use error::{GitError, chain};
pub use forge::{Forge, ForgeError, Gitea};
pub use path::RepoPath;
pub use repo::{CommitId, Repo};
