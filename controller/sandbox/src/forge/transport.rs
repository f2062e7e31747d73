//! Smart-HTTP Git: `git http-backend` as a CGI child per request.

use std::path::Path;
use std::process::Stdio;

use axum::body::Body;
use axum::response::Response;
use http::{StatusCode, header};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The largest pack that is taken.
pub const PACK_LIMIT: usize = 64 * 1024 * 1024;

/// What a Git request carries.
#[derive(Debug)]
pub struct GitRequest {
    /// Method.
    pub method: String,
    /// Path inside the root, `/owner/repo.git/info/refs`.
    pub path: String,
    /// Raw query string.
    pub query: String,
    /// Content type.
    pub content_type: String,
    /// `gzip` or empty.
    pub encoding: String,
    /// The `Git-Protocol` header.
    pub protocol: String,
    /// Who pushes.
    pub user: String,
    /// Body.
    pub body: axum::body::Bytes,
}

/// Runs the backend and turns its CGI answer into HTTP.
pub async fn serve(root: &Path, request: GitRequest) -> Response {
    match run(root, request).await {
        Ok(response) => response,
        Err(error) => {
            tracing::warn!(%error, "git http-backend failed");
            plain(StatusCode::INTERNAL_SERVER_ERROR, format!("git http-backend failed: {error}"))
        }
    }
}

fn plain(code: StatusCode, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = code;
    response
}

async fn run(root: &Path, request: GitRequest) -> std::io::Result<Response> {
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        // The repositories are ours although the user may run under another uid.
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("PATH_INFO", &request.path)
        .env("QUERY_STRING", &request.query)
        .env("REQUEST_METHOD", &request.method)
        .env("CONTENT_TYPE", &request.content_type)
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", &request.encoding)
        .env("GIT_PROTOCOL", &request.protocol)
        .env("REMOTE_USER", &request.user)
        .env("REMOTE_ADDR", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let body = request.body;
    let feed = child.stdin.take().map(|mut input| async move {
        // A backend that has read enough closes its input; its answer says what happened.
        let _ = input.write_all(&body).await;
        let _ = input.shutdown().await;
    });
    let (output, ()) = tokio::join!(child.wait_with_output(), async {
        if let Some(feed) = feed {
            feed.await;
        }
    });
    Ok(from_cgi(output?.stdout))
}

fn from_cgi(output: Vec<u8>) -> Response {
    let Some(end) = output.windows(4).position(|four| four == b"\r\n\r\n") else {
        return plain(StatusCode::INTERNAL_SERVER_ERROR, "git http-backend gave no answer".into());
    };
    let head = String::from_utf8_lossy(&output[..end]).into_owned();
    let mut response = Response::new(Body::from(output[end + 4..].to_vec()));
    for line in head.lines() {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        if name.eq_ignore_ascii_case("status") {
            let code = value.split(' ').next().and_then(|code| code.parse().ok());
            *response.status_mut() =
                code.and_then(|code: u16| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::OK);
        } else if let (Ok(name), Ok(value)) = (header::HeaderName::try_from(name), header::HeaderValue::try_from(value))
        {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
