//! Gitea: a real forge with Git over HTTP, pull requests, webhooks and workflow runs.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::gitea_repo::Repo;
use super::parts::{Binaries, Build};
use super::ports::free_port;
use super::program::Program;
use super::reaper::Run;
use super::web;

const ADMIN: &str = "bench-admin";
const PASSWORD: &str = "bench-password-1";

/// Gitea, running, with an administrator.
#[derive(Debug)]
pub struct Gitea {
    url: String,
    token: String,
    /// `gitea` with our app.ini, for its admin commands.
    binary: PathBuf,
    ini: PathBuf,
    program: Program,
    folder: tempfile::TempDir,
}

/// Someone who can sign in, push and comment.
#[derive(Debug, Clone)]
pub struct GiteaUser {
    pub name: String,
    pub password: String,
    /// An access token with every scope; also good as the password of Git over HTTP.
    pub token: String,
}

impl Gitea {
    /// Starts it with an empty SQLite database and one administrator.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start(binaries: &Binaries) -> anyhow::Result<Self> {
        let folder = Run::current()?.folder("gitea")?;
        let dir = folder.path().to_path_buf();
        let binary = binaries.path(Build::Gitea, "gitea")?;
        let port = free_port()?;
        let url = format!("http://127.0.0.1:{port}");
        let ini = dir.join("app.ini");
        fs::write(
            &ini,
            app_ini(&dir.display().to_string(), &binaries.path(Build::Gitea, "static")?.display().to_string(), port),
        )?;

        let cli = |args: &[&str]| -> anyhow::Result<Program> {
            Ok(Program::new("gitea-cli", &binary, &dir)?.env("HOME", &dir).args(args).arg("--config").arg(&ini))
        };
        cli(&["migrate"])?.output().await?;
        let user = [
            "admin",
            "user",
            "create",
            "--admin",
            "--must-change-password=false",
            "--username",
            ADMIN,
            "--password",
            PASSWORD,
            "--email",
            "admin@bench.invalid",
        ];
        cli(&user)?.output().await?;
        let token = cli(&[
            "admin",
            "user",
            "generate-access-token",
            "--raw",
            "--scopes",
            "all",
            "--token-name",
            "bench",
            "--username",
            ADMIN,
        ])?
        .output()
        .await?;
        let token = token.lines().last().context("Gitea made no token")?.trim().to_owned();

        let program = Program::new("gitea", &binary, &dir)?.env("HOME", &dir).arg("web").arg("--config").arg(&ini);
        program.start()?;
        let health = format!("{url}/api/healthz");
        program.ready(|| web::answers(&health)).await?;
        Ok(Self { url, token, binary, ini, program, folder })
    }

    /// `http://127.0.0.1:PORT`, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The administrator.
    #[must_use]
    pub fn admin(&self) -> GiteaUser {
        GiteaUser { name: ADMIN.to_owned(), password: PASSWORD.to_owned(), token: self.token.clone() }
    }

    /// Calls its REST API (`/repos/...`, below `/api/v1`) as the administrator.
    ///
    /// # Errors
    /// When the answer is not a success: status and body are in the message.
    pub async fn api(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        web::json(self.request(method, path, body, &self.token)?).await
    }

    /// Calls its REST API as someone else.
    ///
    /// # Errors
    /// When the answer is not a success: status and body are in the message.
    pub async fn api_as(
        &self,
        user: &GiteaUser,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<Value> {
        web::json(self.request(method, path, body, &user.token)?).await
    }

    pub(super) fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        token: &str,
    ) -> anyhow::Result<RequestBuilder> {
        let request = web::client()?
            .request(method, format!("{}/api/v1{path}", self.url))
            .header("Authorization", format!("token {token}"));
        Ok(match body {
            Some(body) => request.json(&body),
            None => request,
        })
    }

    /// Makes a user with a token.
    ///
    /// # Errors
    /// When Gitea refuses.
    pub async fn create_user(&self, name: &str) -> anyhow::Result<GiteaUser> {
        let user = json!({"username": name, "email": format!("{name}@bench.invalid"), "password": PASSWORD, "must_change_password": false});
        self.api(Method::POST, "/admin/users", Some(user)).await?;
        let request =
            web::client()?.post(format!("{}/api/v1/users/{name}/tokens", self.url)).basic_auth(name, Some(PASSWORD));
        let token = web::json(request.json(&json!({"name": "bench", "scopes": ["all"]}))).await?;
        let token = token["sha1"].as_str().context("a token without its text")?.to_owned();
        Ok(GiteaUser { name: name.to_owned(), password: PASSWORD.to_owned(), token })
    }

    /// Takes a user's token away: what they do with it fails from now on.
    ///
    /// # Errors
    /// When Gitea refuses.
    pub async fn revoke_token(&self, user: &GiteaUser) -> anyhow::Result<()> {
        let request = web::client()?
            .delete(format!("{}/api/v1/users/{}/tokens/bench", self.url, user.name))
            .basic_auth(&user.name, Some(&user.password));
        web::text(request).await.map(|_| ())
    }

    /// Makes an organisation.
    ///
    /// # Errors
    /// When Gitea refuses.
    pub async fn create_org(&self, name: &str) -> anyhow::Result<()> {
        self.api(Method::POST, "/orgs", Some(json!({"username": name}))).await.map(|_| ())
    }

    /// Makes a private repository of an organisation with branch `main` and these files in one commit.
    ///
    /// # Errors
    /// When Gitea refuses.
    pub async fn create_repo(&self, org: &str, name: &str, files: &[(&str, &str)]) -> anyhow::Result<Repo<'_>> {
        let repo = json!({"name": name, "private": true, "auto_init": true, "default_branch": "main"});
        self.api(Method::POST, &format!("/orgs/{org}/repos"), Some(repo)).await?;
        let repo = self.repo(org, name);
        if !files.is_empty() {
            repo.commit("main", "first manifests", files).await?;
        }
        Ok(repo)
    }

    /// A repository that exists.
    #[must_use]
    pub fn repo(&self, owner: &str, name: &str) -> Repo<'_> {
        Repo::new(self, owner, name)
    }

    /// A token that a workflow runner registers with.
    ///
    /// # Errors
    /// When Gitea refuses.
    pub async fn runner_registration_token(&self) -> anyhow::Result<String> {
        let program = Program::new("gitea-cli", &self.binary, self.folder.path())?.env("HOME", self.folder.path());
        let token = program.args(["actions", "generate-runner-token", "--config"]).arg(&self.ini).output().await?;
        Ok(token.lines().last().context("Gitea made no runner token")?.trim().to_owned())
    }

    /// The program, for stories that stop it; `start` then runs it on the same data and port.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }
}

/// Everything on this machine, nothing in the background that is not needed, no waiting for disks.
fn app_ini(dir: &str, static_root: &str, port: u16) -> String {
    format!(
        "APP_NAME = Bench\n\
         RUN_MODE = prod\n\
         WORK_PATH = {dir}\n\
         I_AM_BEING_UNSAFE_RUNNING_AS_ROOT = true\n\
         [server]\nPROTOCOL = http\nHTTP_ADDR = 127.0.0.1\nHTTP_PORT = {port}\nROOT_URL = http://127.0.0.1:{port}/\n\
         APP_DATA_PATH = {dir}/data\nSTATIC_ROOT_PATH = {static_root}\nOFFLINE_MODE = true\nDISABLE_SSH = true\nLFS_START_SERVER = false\n\
         [database]\nDB_TYPE = sqlite3\nPATH = {dir}/data/gitea.db\nSQLITE_JOURNAL_MODE = WAL\nSQLITE_TIMEOUT = 5000\n\
         [security]\nINSTALL_LOCK = true\nSECRET_KEY = bench-only\nMIN_PASSWORD_LENGTH = 6\nPASSWORD_HASH_ALGO = pbkdf2$1000$50\nPASSWORD_COMPLEXITY = off\n\
         [service]\nDISABLE_REGISTRATION = true\nREGISTER_EMAIL_CONFIRM = false\nENABLE_NOTIFY_MAIL = false\n\
         [repository]\nROOT = {dir}/data/repositories\nDEFAULT_BRANCH = main\nDISABLE_MIGRATIONS = true\n\
         [repository.pull-request]\nDEFAULT_MERGE_STYLE = merge\n\
         [webhook]\nALLOWED_HOST_LIST = loopback\nDELIVER_TIMEOUT = 5\n\
         [actions]\nENABLED = true\n\
         [indexer]\nISSUE_INDEXER_TYPE = db\n\
         [queue]\nTYPE = channel\n\
         [session]\nPROVIDER = memory\n\
         [log]\nMODE = console\nLEVEL = info\n\
         [picture]\nDISABLE_GRAVATAR = true\n\
         [cron.update_checker]\nENABLED = false\n\
         [other]\nENABLE_FEED = false\n"
    )
}
