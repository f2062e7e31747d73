//! Failed CI runs of the shop.

use amend_controller::dashboard::views::{BuildRow, BuildView};
use jiff::Timestamp;

use super::ago;

/// One of a class, one without, and one whose log is lost; the texts of the first are hostile.
pub fn builds(now: Timestamp) -> Vec<BuildView> {
    let view = |name: &str, phase: &str, class: Option<&str>, because: &str, seconds| BuildView {
        row: BuildRow {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            repository: "shop/checkout".to_owned(),
            commit: "4f0c2a9d7be1f3c5a8d6e2b4c1f09a7d3e5b8c60".to_owned(),
            branch: "main".to_owned(),
            workflow: "ci.yaml".to_owned(),
            job: "test".to_owned(),
            run_id: "812".to_owned(),
            attempt: 2,
            phase: phase.to_owned(),
            class: class.map(str::to_owned),
            because: because.to_owned(),
            reported_at: ago(now, seconds),
        },
        forge: "Gitea".to_owned(),
        result: "failure".to_owned(),
        url: "https://git.example/shop/checkout/actions/runs/812".to_owned(),
        lines: Vec::new(),
        diagnosed_at: None,
        deliveries: 1,
    };
    let lines = [
        (411, "running 214 tests"),
        (412, "error[E0425]: cannot find value `total` in <script>alert(1)</script>\u{202e}\u{1b}[31m"),
        (413, "  --> src/cart.rs:88:17"),
    ];
    let code = "line 412: the compiler refused the code: \"error[E0425]: cannot find value `total` in <img src=x>\"";
    let mut hostile = BuildView {
        lines: lines.map(|(number, text)| (number, text.to_owned())).to_vec(),
        diagnosed_at: Some(ago(now, 170)),
        ..view("bld-91a0", "Diagnosed", Some("code"), code, 180)
    };
    hostile.row.branch = "<img src=x onerror=alert(1)>".to_owned();
    let mut payments = BuildView {
        url: "javascript:alert(1)".to_owned(),
        deliveries: 0,
        ..view("bld-77c2", "Abstained", None, "log not available: the forge names no failed job of this run", 7200)
    };
    payments.row.namespace = "payments".to_owned();
    vec![view("bld-03fe", "Diagnosing", None, "", 20), hostile, payments]
}
