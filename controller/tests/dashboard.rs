//! The dashboard over HTTP: who may look, what the pages say, and that nothing in them runs.
#![allow(clippy::unwrap_used)] // helper functions of tests are not inside a test module

mod shop;

use std::net::SocketAddr;
use std::sync::Arc;

use amend_controller::clients::Clients;
use amend_controller::dashboard::session::{Door, Doorkeeper, Rejection};
use amend_controller::dashboard::views::{Change, IncidentRow, PullRequestView, Reader, ViewError};
use amend_controller::dashboard::{self};
use amend_controller::server::Peer;
use amend_controller::time::Time;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use http_body_util::BodyExt;
use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use shop::Shop;
use tower::ServiceExt;

/// A clock that stands still.
#[derive(Debug)]
struct Noon;

impl Time for Noon {
    fn now(&self) -> Timestamp {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    fn sleep(&self, _: SignedDuration) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }
}

/// Knows one token.
struct Keeper;

impl Doorkeeper for Keeper {
    fn admit(&self, token: SecretString) -> BoxFuture<'_, Result<Reader, Rejection>> {
        async move {
            match token.expose_secret() {
                "good" => Ok(reader("alice@example.com")),
                "later" => Err(Rejection::Unavailable),
                _ => Err(Rejection::Unknown),
            }
        }
        .boxed()
    }
}

fn reader(name: &str) -> Reader {
    let client = Clients::new(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap().reader();
    Reader { name: name.to_owned(), client }
}

fn demo(shop: Shop) -> Router {
    dashboard::routes(Arc::new(shop), Door::Loopback(reader("")), Arc::new(Noon))
}

fn guarded() -> Router {
    dashboard::routes(Arc::new(Shop::new(Noon.now())), Door::Tokens(Arc::new(Keeper)), Arc::new(Noon))
}

fn near(path: &str) -> Request<Body> {
    let mut request = Request::get(path).header("host", "localhost:8080").body(Body::empty()).unwrap();
    request.extensions_mut().insert(Peer(SocketAddr::from(([127, 0, 0, 1], 40000))));
    request
}

fn form(path: &str, body: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::post(path).header("content-type", "application/x-www-form-urlencoded");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::from(body.to_owned())).unwrap()
}

async fn text(response: Response<Body>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

async fn page(app: Router, path: &str) -> String {
    let response = app.oneshot(near(path)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    text(response).await
}

#[tokio::test]
async fn the_list_shows_what_waits_for_a_person_first_and_hides_what_is_over() {
    let list = page(demo(Shop::new(Noon.now())), "/incidents").await;
    let place = |what: &str| list.find(what).unwrap_or_else(|| panic!("{what} is missing"));
    assert!(place("checkout runs out of memory") < place("/incidents/shop/cart-19bc"));
    assert!(place("/incidents/shop/cart-19bc") < place("/incidents/payments/ledger-2201"));
    assert!(!list.contains("frontend-0c9d"));
    assert!(list.contains("6 min") && list.contains("96 %") && list.contains("Critical"));
    assert!(page(demo(Shop::new(Noon.now())), "/incidents?show=all").await.contains("frontend-0c9d"));
}

#[tokio::test]
async fn one_incident_shows_cause_graph_evidence_gates_diff_and_record() {
    let incident = page(demo(Shop::new(Noon.now())), "/incidents/shop/checkout-7f3a").await;
    for shown in [
        "<h1>checkout runs out of memory",
        "class=\"amend-graph\"",
        "may be wrong: needs &#60;b&#62;more&#60;/b&#62; memory</p>",
        "OOMKilled 6 times",
        "max_over_time(container_memory_working_set_bytes{namespace=&#34;shop&#34;",
        "no answer within 3 s",
        "one pod of 1.7.2 was killed as well",
        "7 of 7 pass",
        "checkout and payment explain the signals &#60;i&#62;equally&#60;/i&#62; well",
        "2 finer questions, 1 without an answer",
        "7 of 819 series, spans and log lines name nothing that is known here: pod=&#60;b&#62;ghost&#60;/b&#62;-1 (7)",
        "series and spans that these clusters sent were left out: &#60;b&#62;staging&#60;/b&#62; (3)",
        "<tr class=\"del\">",
        "memory: 96Mi",
        "href=\"https://git.example/shop/fleet/pulls/7\"",
        "kubectl amend record verify --incident shop/checkout-7f3a",
        "aria-current=\"step\"",
    ] {
        assert!(incident.contains(shown), "{shown} is missing in:\n{incident}");
    }
}

#[tokio::test]
async fn an_abstention_says_what_would_decide_names_its_guess_as_one_and_is_no_cause_on_the_list() {
    let incident = page(demo(Shop::new(Noon.now())), "/incidents/shop/cart-19bc").await;
    let why = "cart and checkout were released 40 s apart; error rate by version would decide; no such label";
    assert_eq!(incident.matches(why).count(), 1, "{incident}");
    for shown in [
        "<h1>No cause is certain enough to act on</h1>",
        "Best guess: checkout runs out of memory",
        "<h2>Why it is the best guess</h2>",
        "kubectl amend explain cart-19bc -n shop</code>",
    ] {
        assert!(incident.contains(shown), "{shown} is missing in:\n{incident}");
    }
    let list = page(demo(Shop::new(Noon.now())), "/incidents").await;
    assert!(list.contains(why) && list.contains("not sure"), "{list}");
}

#[tokio::test]
async fn a_change_that_cannot_be_shown_is_said_with_its_reason_and_times_name_their_zone() {
    let shop = Shop { unshown: Some("no GitTarget serves the repository".to_owned()), ..Shop::new(Noon.now()) };
    let incident = page(demo(shop), "/incidents/shop/checkout-7f3a").await;
    assert!(incident.contains("The change cannot be shown: no GitTarget serves the repository."), "{incident}");
    assert!(incident.contains("11:40:00 to 12:00:00 UTC"), "{incident}");
}

#[tokio::test]
async fn an_empty_list_of_one_namespace_says_which_and_leads_to_what_is_over_there() {
    let mut shop = Shop::new(Noon.now());
    shop.rows.retain(|row| row.over || row.namespace != "shop");
    let list = page(demo(shop), "/incidents?namespace=shop").await;
    assert!(list.contains("Nothing that Amend knows of is broken in shop."), "{list}");
    assert!(list.contains("<a href=\"/incidents?show=all&amp;namespace=shop\">See the 1 that is over</a>"), "{list}");
}

#[tokio::test]
async fn lines_that_nobody_can_class_are_shown_with_the_pattern_to_copy_and_what_was_dropped() {
    let lines = page(demo(Shop::new(Noon.now())), "/logs/unknown").await;
    for shown in [
        "<strong>12</strong> lines of",
        "shard &#60;*&#62; refuses writes: journal &#60;img src=x&#62; is sealed",
        "- template: &#39;shard &#60;*&#62; refuses writes",
        "<strong>3</strong> pushed out with 40 lines",
        "href=\"/incidents/shop/checkout-7f3a\"",
    ] {
        assert!(lines.contains(shown), "{shown} is missing in:\n{lines}");
    }
    assert!(!lines.contains("<img src=x"));
    let forbidden = ViewError::Forbidden { why: "incidents is forbidden".to_owned() };
    let app = demo(Shop { error: Some(forbidden), ..Shop::new(Noon.now()) });
    assert_eq!(app.oneshot(near("/logs/unknown")).await.unwrap().status(), StatusCode::FORBIDDEN);
    let closed = guarded().oneshot(near("/logs/unknown")).await.unwrap();
    assert_eq!(closed.status(), StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn failed_builds_are_listed_the_newest_first_and_one_shows_its_run_and_failing_lines() {
    let list = page(demo(Shop::new(Noon.now())), "/builds").await;
    let places =
        ["/builds/shop/bld-03fe", "/builds/shop/bld-91a0", "/builds/payments/bld-77c2"].map(|what| list.find(what));
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{list}");
    assert!(list.contains("<strong>3</strong> failed CI runs") && list.contains(">code</span>"), "{list}");
    let one = page(demo(Shop::new(Noon.now())), "/builds/shop/bld-91a0").await;
    for shown in [
        "data-events=\"/events?namespace=shop&amp;name=bld-91a0\"",
        "<h1>line 412: the compiler refused the code",
        "The commit itself is at fault",
        "<tr><th scope=\"row\">412</th><td><code>error[E0425]: cannot find value `total` in &#60;script&#62;alert(1)",
        "href=\"https://git.example/shop/checkout/actions/runs/812\"",
        "812, attempt 2",
        "4f0c2a9d7be1f3c5a8d6e2b4c1f09a7d3e5b8c60",
        "by a webhook",
    ] {
        assert!(one.contains(shown), "{shown} is missing in:\n{one}");
    }
    let lost = page(demo(Shop::new(Noon.now())), "/builds/payments/bld-77c2").await;
    assert!(lost.contains("the log could not be had") && lost.contains("by asking the forge"), "{lost}");
}

#[tokio::test]
async fn builds_are_shown_to_whom_the_cluster_lets_read_them() {
    for path in ["/builds", "/builds/shop/bld-91a0"] {
        let closed = guarded().oneshot(near(path)).await.unwrap();
        assert_eq!(closed.status(), StatusCode::SEE_OTHER, "{path}");
        let forbidden = ViewError::Forbidden { why: "builds is forbidden".to_owned() };
        let app = demo(Shop { error: Some(forbidden), ..Shop::new(Noon.now()) });
        assert_eq!(app.oneshot(near(path)).await.unwrap().status(), StatusCode::FORBIDDEN, "{path}");
    }
    let missing = demo(Shop::new(Noon.now())).oneshot(near("/builds/shop/none")).await.unwrap();
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn who_may_read_one_namespace_is_asked_for_it_and_shown_its_lists() {
    let forbidden =
        || Shop { error: Some(ViewError::Forbidden { why: "it is forbidden".to_owned() }), ..Shop::new(Noon.now()) };
    for list in ["/incidents", "/builds"] {
        let response = demo(forbidden()).oneshot(near(list)).await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        let asked = text(response).await;
        assert!(asked.contains(&format!("<form method=\"get\" action=\"{list}\">")), "{asked}");
        let own = page(demo(forbidden()), &format!("{list}?namespace=payments")).await;
        assert!(own.contains("/payments/") && !own.contains("/shop/"), "{own}");
    }
}

#[tokio::test]
async fn hostile_text_is_shown_and_never_runs() {
    let mut shop = Shop::new(Noon.now());
    let hostile = "<script>alert(1)</script>\u{202e}\u{1b}[31m\"><img src=x onerror=alert(1)>";
    shop.rows = vec![IncidentRow {
        cause: Some(hostile.to_owned()),
        entity: hostile.to_owned(),
        because: hostile.to_owned(),
        needs_person: Some(hostile.to_owned()),
        pull_request: Some(PullRequestView {
            number: 7,
            url: "javascript:alert(1)".to_owned(),
            state: hostile.to_owned(),
        }),
        ..shop.rows[0].clone()
    }];
    for path in [
        "/incidents",
        "/incidents/shop/checkout-7f3a",
        "/incidents?namespace=%22%3E%3Cscript%3E",
        "/builds",
        "/builds?namespace=%22%3E%3Cscript%3E",
        "/builds/shop/bld-91a0",
        "/builds/payments/bld-77c2",
    ] {
        let page = page(demo(Shop { rows: shop.rows.clone(), ..Shop::new(Noon.now()) }), path).await;
        assert!(!page.contains("<script>") && !page.contains("<img src=x"), "{path}");
        assert!(!page.contains("javascript:") && !page.contains('\u{202e}') && !page.contains('\u{1b}'), "{path}");
        assert!(!page.contains(" style=") && !page.contains("<style") && !page.contains(" onclick="), "{path}");
    }
}

#[tokio::test]
async fn the_browser_is_told_to_run_and_load_only_what_is_ours() {
    let response = demo(Shop::new(Noon.now())).oneshot(near("/incidents")).await.unwrap();
    let policy = response.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
    assert!(!policy.contains("unsafe"));
    assert_eq!(response.headers()["cache-control"], "no-store");
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
}

#[tokio::test]
async fn assets_are_kept_for_ever_under_the_name_of_their_content() {
    let app = demo(Shop::new(Noon.now()));
    let list = page(app.clone(), "/incidents").await;
    let from = list.find("/assets/").unwrap();
    let path = list[from..].split('"').next().unwrap().replace("icon.svg", "amend.css");
    let response = app.clone().oneshot(near(&path)).await.unwrap();
    assert_eq!(response.headers()["cache-control"], "public, max-age=31536000, immutable");
    let mut again = near(&path);
    again.headers_mut().insert("if-none-match", response.headers()["etag"].clone());
    assert_eq!(app.clone().oneshot(again).await.unwrap().status(), StatusCode::NOT_MODIFIED);
    let other = path.replace("/assets/", "/assets/0");
    assert_eq!(app.oneshot(near(&other)).await.unwrap().status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn without_a_session_there_is_a_login_and_nothing_else() {
    for path in ["/incidents", "/incidents/shop/checkout-7f3a", "/events"] {
        let response = guarded().oneshot(near(path)).await.unwrap();
        assert_eq!(response.status(), StatusCode::SEE_OTHER, "{path}");
        assert!(response.headers()["location"].to_str().unwrap().starts_with("/login?then=%2F"), "{path}");
    }
}

#[tokio::test]
async fn a_good_token_opens_a_session_that_scripts_cannot_read_and_signing_out_ends_it() {
    let app = guarded();
    let response =
        app.clone().oneshot(form("/login", "token=good&then=%2Fincidents%2Fshop%2Fcheckout-7f3a", &[])).await.unwrap();
    assert_eq!(response.headers()["location"], "/incidents/shop/checkout-7f3a");
    let cookie = response.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && !cookie.contains("good"), "{cookie}");
    let session = cookie.split(';').next().unwrap().to_owned();
    let with_session = |mut request: Request<Body>| {
        request.headers_mut().insert("cookie", session.parse().unwrap());
        request
    };
    let list = text(app.clone().oneshot(with_session(near("/incidents"))).await.unwrap()).await;
    assert!(list.contains("alice@example.com"));
    app.clone().oneshot(with_session(form("/logout", "", &[]))).await.unwrap();
    let after = app.oneshot(with_session(near("/incidents"))).await.unwrap();
    assert_eq!(after.status(), StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_bad_token_a_foreign_form_and_a_way_out_are_refused() {
    for (body, headers, status) in [
        ("token=bad", &[][..], StatusCode::UNAUTHORIZED),
        ("token=", &[][..], StatusCode::UNAUTHORIZED),
        ("token=later", &[][..], StatusCode::SERVICE_UNAVAILABLE),
        ("token=good", &[("sec-fetch-site", "cross-site")][..], StatusCode::FORBIDDEN),
        ("token=good", &[("origin", "https://evil.example"), ("host", "amend")][..], StatusCode::FORBIDDEN),
    ] {
        let response = guarded().oneshot(form("/login", body, headers)).await.unwrap();
        assert_eq!(response.status(), status, "{body} {headers:?}");
        assert!(!response.headers().contains_key("set-cookie"));
    }
    let response = guarded().oneshot(form("/login", "token=good&then=https%3A%2F%2Fevil.example", &[])).await.unwrap();
    assert_eq!(response.headers()["location"], "/incidents");
}

#[tokio::test]
async fn the_anonymous_demo_answers_its_own_machine_only() {
    let mut far = near("/incidents");
    far.extensions_mut().insert(Peer(SocketAddr::from(([10, 0, 0, 9], 40000))));
    let mut rebound = near("/incidents");
    rebound.headers_mut().insert("host", "evil.example:8080".parse().unwrap());
    let mut unknown = near("/incidents");
    unknown.extensions_mut().remove::<Peer>();
    for request in [far, rebound, unknown] {
        let response = demo(Shop::new(Noon.now())).oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_said_with_its_reason() {
    for (error, status, sentence) in [
        (
            ViewError::Forbidden { why: "incidents is forbidden".to_owned() },
            StatusCode::FORBIDDEN,
            "incidents is forbidden",
        ),
        (ViewError::Unavailable { why: "no answer".to_owned() }, StatusCode::SERVICE_UNAVAILABLE, "no answer"),
    ] {
        let app = demo(Shop { error: Some(error), ..Shop::new(Noon.now()) });
        let response = app.oneshot(near("/incidents")).await.unwrap();
        assert_eq!(response.status(), status);
        assert!(text(response).await.contains(sentence));
    }
    let missing = demo(Shop::new(Noon.now())).oneshot(near("/incidents/shop/none")).await.unwrap();
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_page_is_told_that_its_incident_changed_and_not_what() {
    let shop = Shop::new(Noon.now());
    let changes = shop.changes.clone();
    let response = demo(shop).oneshot(near("/events?namespace=shop&name=checkout-7f3a")).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut stream = response.into_body().into_data_stream();
    let hello = stream.next().await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&hello).contains("event: hello"));
    for name in ["other", "checkout-7f3a"] {
        changes.send(Change { namespace: "shop".to_owned(), name: name.to_owned() }).unwrap();
    }
    let told = tokio::time::timeout(std::time::Duration::from_secs(5), stream.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&told), "event: change\ndata: -\n\n");
}

#[tokio::test]
async fn a_thousand_incidents_are_listed_quickly() {
    let mut shop = Shop::new(Noon.now());
    shop.rows = (0..1000).map(|number| IncidentRow { name: format!("inc-{number}"), ..shop.rows[0].clone() }).collect();
    let app = demo(shop);
    let started = std::time::Instant::now();
    let list = page(app, "/incidents").await;
    assert!(list.contains("inc-999"));
    assert!(started.elapsed() < std::time::Duration::from_millis(1500), "took {:?} unoptimised", started.elapsed());
}
