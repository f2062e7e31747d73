//! A world in a box: what `amend demo`, `amend simulate` and tests run the real controller against.
//!
//! Everything listens on 127.0.0.1 with free ports, in one tokio runtime, on one [`SandboxClock`].
//!
//! Why not an existing fake client? `kube-fake-client` 0.3 is tied to kube 4 and has no watch stream, so no controller can run
//! on it; `tower-test` mocks answer scripted requests one by one, which tests a script and not a loop; KWOK, envtest and kind
//! need a real control plane (the live bench has one). A demo on a fresh machine needs a server that the production client talks to over
//! HTTP, that reacts (rollouts, scheduling, OOM kills) and whose time can be stepped. Hence this small one.

pub mod apiserver;
pub mod clock;
pub mod cluster;
pub mod forge;
pub mod git;
pub mod model;
pub mod scenario;
pub mod serving;
pub mod telemetry;
pub mod world;

pub use clock::SandboxClock;
pub use scenario::Scenario;
pub use world::{Endpoints, World, WorldError};
