//! A Git server for tests: `git http-backend` behind axum, with basic authentication.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use amend_gitops::{Author, CommitId, GitAccess, Repo};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

/// A bare repository `shop/fleet.git`, served over HTTP to user `amend` with password `secret`.
pub struct Server {
    pub folder: TempDir,
    pub address: SocketAddr,
    listed: Arc<AtomicUsize>,
}

/// What the handler knows: where the repositories are, and how often their branches were listed.
#[derive(Clone)]
struct Served {
    root: PathBuf,
    listed: Arc<AtomicUsize>,
}

impl Server {
    /// Serves a repository whose branch `main` has the given files in one commit.
    pub async fn with(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bare = folder.path().join("shop/fleet.git");
        let mut options = git2::RepositoryInitOptions::new();
        options.bare(true).initial_head("main").mkpath(true);
        let git = git2::Repository::init_opts(&bare, &options).unwrap();
        git.config().unwrap().set_bool("http.receivepack", true).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let listed = Arc::<AtomicUsize>::default();
        let served = Served { root: folder.path().to_owned(), listed: listed.clone() };
        let app = Router::new().fallback(answer).with_state(served);
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        let server = Self { folder, address, listed };
        server.commit("main", "first", files);
        server
    }

    pub fn git(&self) -> git2::Repository {
        git2::Repository::open_bare(self.folder.path().join("shop/fleet.git")).unwrap()
    }

    /// Commits as somebody else, straight into the server's repository; an empty text removes the file.
    pub fn commit(&self, branch: &str, message: &str, files: &[(&str, &str)]) -> CommitId {
        let git = self.git();
        let name = format!("refs/heads/{branch}");
        let parent = git.find_reference(&name).ok().map(|reference| reference.peel_to_commit().unwrap());
        let base = match &parent {
            Some(parent) => parent.tree().unwrap(),
            None => git.find_tree(git.treebuilder(None).unwrap().write().unwrap()).unwrap(),
        };
        let mut update = git2::build::TreeUpdateBuilder::new();
        for (path, text) in files {
            match *text {
                "" => update.remove(*path),
                text => update.upsert(*path, git.blob(text.as_bytes()).unwrap(), git2::FileMode::Blob),
            };
        }
        let tree = git.find_tree(update.create_updated(&git, &base).unwrap()).unwrap();
        let who = git2::Signature::new("Somebody", "somebody@example.com", &git2::Time::new(1_750_000_000, 0)).unwrap();
        let parents: Vec<&git2::Commit<'_>> = parent.iter().collect();
        let id = git.commit(Some(&name), &who, &who, message, &tree, &parents).unwrap();
        CommitId::parse(&id.to_string()).unwrap()
    }

    /// Commits a raw tree, which may be one that no Git client would write, on top of the branch.
    #[allow(dead_code)]
    pub fn commit_tree(&self, branch: &str, tree: git2::Oid) -> CommitId {
        let git = self.git();
        let name = format!("refs/heads/{branch}");
        let parent = git.refname_to_id(&name).unwrap();
        let who = "Evil <evil@example.com> 1750000000 +0000";
        let raw = format!("tree {tree}\nparent {parent}\nauthor {who}\ncommitter {who}\n\nevil\n");
        let id = git.odb().unwrap().write(git2::ObjectType::Commit, raw.as_bytes()).unwrap();
        git.reference(&name, id, true, "").unwrap();
        CommitId::parse(&id.to_string()).unwrap()
    }

    /// Writes a raw tree object.
    #[allow(dead_code)]
    pub fn tree(&self, entries: &[(&str, &str, git2::Oid)]) -> git2::Oid {
        let mut raw = Vec::new();
        for (mode, name, id) in entries {
            raw.extend_from_slice(format!("{mode} {name}\0").as_bytes());
            raw.extend_from_slice(id.as_bytes());
        }
        self.git().odb().unwrap().write(git2::ObjectType::Tree, &raw).unwrap()
    }

    pub fn access(&self) -> GitAccess {
        let url = format!("http://{}/shop/fleet.git", self.address);
        let mut access = GitAccess::new(&url, "main").unwrap().with_private_addresses().with_login("amend", "secret");
        access.author = Author { name: "Amend".into(), email: "amend@example.com".into() };
        access
    }

    pub async fn repo(&self) -> Repo {
        Repo::open(self.access(), &self.scratch()).await.unwrap()
    }

    /// How often the branches were listed so far.
    #[allow(dead_code)]
    pub fn listed(&self) -> usize {
        self.listed.load(Ordering::SeqCst)
    }

    pub fn scratch(&self) -> PathBuf {
        let count = std::fs::read_dir(self.folder.path()).unwrap().count();
        self.folder.path().join(format!("scratch-{count}"))
    }
}

async fn answer(
    State(Served { root, listed }): State<Served>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let status = |code: StatusCode| Response::builder().status(code).body(Body::empty()).unwrap();
    if uri.path().starts_with("/moved/") {
        return Response::builder().status(302).header("location", "http://127.0.0.1:1/").body(Body::empty()).unwrap();
    }
    // "amend:secret"
    if headers.get("authorization").is_none_or(|value| value != "Basic YW1lbmQ6c2VjcmV0") {
        return status(StatusCode::UNAUTHORIZED);
    }
    if !root
        .join(uri.path().split(".git").next().unwrap_or_default().trim_start_matches('/'))
        .with_extension("git")
        .exists()
    {
        return status(StatusCode::NOT_FOUND);
    }
    if uri.path().ends_with("/info/refs") {
        listed.fetch_add(1, Ordering::SeqCst);
    }
    cgi(&root, &method, &uri, &headers, &body).await
}

async fn cgi(root: &Path, method: &Method, uri: &Uri, headers: &HeaderMap, body: &Bytes) -> Response<Body> {
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    let mut child = tokio::process::Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REMOTE_USER", "amend")
        .env("REQUEST_METHOD", method.as_str())
        .env("PATH_INFO", uri.path())
        .env("QUERY_STRING", uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(body).await.unwrap();
    let output = child.wait_with_output().await.unwrap().stdout;
    let end = output.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let mut response = Response::builder();
    for line in std::str::from_utf8(&output[..end]).unwrap().lines() {
        let (name, value) = line.split_once(": ").unwrap();
        response = match name {
            "Status" => response.status(value[..3].parse::<u16>().unwrap()),
            _ => response.header(name, value),
        };
    }
    response.body(Body::from(output[end + 4..].to_vec())).unwrap()
}
