//! Git's smart HTTP protocol for libgit2, spoken over the product's own HTTP client.
//!
//! libgit2's own HTTP would bring a second TLS stack, follow redirects and know no deadline. Here every
//! exchange goes through the egress guard, with a deadline, a cap on bytes and credentials that are sent
//! once per request and never asked for again. (git documentation: `gitprotocol-http`.)

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use git2::transport::{Service, SmartSubtransport, SmartSubtransportStream, Transport};
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use tokio::runtime::Handle;

use crate::error::GitError;

/// The address that libgit2 sees. The real one is in the `Wire` of the thread that does the work.
pub(crate) const ADDRESS: &str = "amend://repository";

/// Requests hold wants and haves, or one small pack: a few lines of YAML and the trees above them.
const REQUEST_LIMIT: usize = 16 * 1024 * 1024;

/// One connection to one repository, for the length of one operation.
pub(crate) struct Wire {
    pub client: reqwest::Client,
    pub url: url::Url,
    pub repository: String,
    pub authorization: Option<HeaderValue>,
    pub runtime: Handle,
    pub started: Instant,
    pub time_limit: Duration,
    pub byte_limit: u64,
    pub received: Mutex<u64>,
    pub fault: Mutex<Option<GitError>>,
}

impl Wire {
    /// Runs `work` on this thread with libgit2's traffic going through this wire.
    ///
    /// The wire's own fault, when there is one, says more than libgit2's and is returned in its place.
    pub fn carry<T>(self, work: impl FnOnce() -> Result<T, GitError>) -> Result<T, GitError> {
        prepare();
        let wire = Arc::new(self);
        let before = CURRENT.replace(Some(wire.clone()));
        let result = work();
        CURRENT.set(before);
        result.map_err(|error| lock(&wire.fault).take().unwrap_or(error))
    }

    fn wait<T>(&self, future: impl Future<Output = reqwest::Result<T>>) -> io::Result<T> {
        let left = self.time_limit.saturating_sub(self.started.elapsed());
        match self.runtime.block_on(async { tokio::time::timeout(left, future).await }) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(source)) => {
                Err(self
                    .fail(GitError::Unreachable { repository: self.repository.clone(), source: source.without_url() }))
            }
            Err(_) => {
                Err(self.fail(GitError::TimedOut { repository: self.repository.clone(), after: self.time_limit }))
            }
        }
    }

    fn fail(&self, fault: GitError) -> io::Error {
        let told = io::Error::other(fault.to_string());
        lock(&self.fault).get_or_insert(fault);
        told
    }

    fn ask(&self, service: Service, body: Vec<u8>) -> io::Result<reqwest::Response> {
        let (path, kind) = match service {
            Service::UploadPackLs => ("/info/refs?service=git-upload-pack", "git-upload-pack-advertisement"),
            Service::UploadPack => ("/git-upload-pack", "git-upload-pack-result"),
            Service::ReceivePackLs => ("/info/refs?service=git-receive-pack", "git-receive-pack-advertisement"),
            Service::ReceivePack => ("/git-receive-pack", "git-receive-pack-result"),
        };
        let address = format!("{}{path}", self.url.as_str().trim_end_matches('/'));
        let mut request = match service {
            Service::UploadPackLs | Service::ReceivePackLs => self.client.get(address),
            Service::UploadPack => {
                self.client.post(address).body(body).header(CONTENT_TYPE, "application/x-git-upload-pack-request")
            }
            Service::ReceivePack => {
                self.client.post(address).body(body).header(CONTENT_TYPE, "application/x-git-receive-pack-request")
            }
        };
        let expected = format!("application/x-{kind}");
        request = request.header(ACCEPT, &expected);
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value.clone());
        }
        let response = self.wait(request.send())?;
        let repository = self.repository.clone();
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(self.fail(GitError::Unauthorized { repository }));
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                return Err(self.fail(GitError::NoRepository { repository }));
            }
            other => return Err(self.fail(GitError::Answered { repository, status: other.as_u16() })),
        }
        if response.headers().get(CONTENT_TYPE).is_none_or(|found| found.as_bytes() != expected.as_bytes()) {
            return Err(self.fail(GitError::NotGit { repository }));
        }
        Ok(response)
    }

    fn next_chunk(&self, response: &mut reqwest::Response) -> io::Result<Option<Vec<u8>>> {
        let Some(chunk) = self.wait(response.chunk())? else { return Ok(None) };
        let mut received = lock(&self.received);
        *received += chunk.len() as u64;
        if *received > self.byte_limit {
            let what = format!("the answer of {}", self.repository);
            return Err(self.fail(GitError::TooLarge { what, limit: self.byte_limit }));
        }
        Ok(Some(chunk.to_vec()))
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Wire>>> = const { RefCell::new(None) };
}

/// Registers the transport, once per process.
#[allow(unsafe_code)]
fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: `register` must not run beside the creation of another transport. Every transport of this process is
        // made inside `carry`, which passes this `Once` first; nothing else here uses libgit2's network side.
        let registered = unsafe {
            git2::transport::register("amend", |remote| {
                let wire = CURRENT.with_borrow(Clone::clone);
                let wire = wire.ok_or_else(|| git2::Error::from_str("no repository is being worked on"))?;
                Transport::smart(remote, true, Subtransport { wire })
            })
        };
        if let Err(error) = registered {
            tracing::error!(%error, "cannot register the Git transport");
        }
    });
}

struct Subtransport {
    wire: Arc<Wire>,
}

impl SmartSubtransport for Subtransport {
    fn action(&self, _address: &str, service: Service) -> Result<Box<dyn SmartSubtransportStream>, git2::Error> {
        Ok(Box::new(Exchange {
            wire: self.wire.clone(),
            service,
            request: Vec::new(),
            reply: None,
            chunk: Vec::new(),
            taken: 0,
        }))
    }

    fn close(&self) -> Result<(), git2::Error> {
        Ok(())
    }
}

/// One request and its reply: libgit2 writes all of the first before it reads the second.
struct Exchange {
    wire: Arc<Wire>,
    service: Service,
    request: Vec<u8>,
    reply: Option<reqwest::Response>,
    chunk: Vec<u8>,
    taken: usize,
}

impl Write for Exchange {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.request.len() + bytes.len() > REQUEST_LIMIT {
            let what = "the request to the repository".to_owned();
            return Err(self.wire.fail(GitError::TooLarge { what, limit: REQUEST_LIMIT as u64 }));
        }
        self.request.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Exchange {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.reply.is_none() {
            self.reply = Some(self.wire.ask(self.service, std::mem::take(&mut self.request))?);
        }
        while self.taken == self.chunk.len() {
            let Some(reply) = self.reply.as_mut() else { return Ok(0) };
            match self.wire.next_chunk(reply)? {
                Some(chunk) => (self.chunk, self.taken) = (chunk, 0),
                None => return Ok(0),
            }
        }
        let count = into.len().min(self.chunk.len() - self.taken);
        into[..count].copy_from_slice(&self.chunk[self.taken..self.taken + count]);
        self.taken += count;
        Ok(count)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
