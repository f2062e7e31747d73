//! Stories: eight kinds of fault, and decoys in which something innocent looks guilty.

use amend_diagnosis::diagnosis::cause;
use amend_diagnosis::evidence::ChangeKind;
use amend_sandbox::model::graph::Need;

use super::{BEGINS, Case, Stage, Truth};

fn case(name: &str, stage: Stage, truth: Truth) -> Case {
    Case { name: name.to_owned(), observations: stage.play(), truth }
}

/// One case of each kind of fault.
pub fn faults(seed: u64) -> Vec<Case> {
    let shop = || Stage::shop(seed);
    vec![
        case(
            "memory",
            shop().when(BEGINS - 30, |shop| {
                shop.release("checkout", "1.1", |version| {
                    (version.memory_mib, version.warm_up_seconds) = (330.0, 60.0)
                });
            }),
            Truth::of(&["checkout"], &[cause::OOM_KILLED, cause::BAD_IMAGE]),
        ),
        case(
            "cpu throttling",
            shop().when(BEGINS - 30, |shop| {
                let diff = "-              cpu: 500m\n+              cpu: 10m\n";
                shop.changed("checkout", ChangeKind::Config, diff, |workload| workload.cpu_limit = "10m");
            }),
            Truth::of(&["checkout"], &[cause::CPU, cause::BAD_CONFIG, cause::LATENCY]),
        ),
        case(
            "latency of one dependency",
            shop().when(BEGINS, |shop| shop.behaves("payment").latency_factor = 12.0),
            // In the model slow work is work: it takes CPU as long as it lasts.
            Truth::of(&["payment"], &[cause::LATENCY, cause::CPU]),
        ),
        case(
            "bad release",
            shop().when(BEGINS - 30, |shop| shop.release("cart", "1.1", |version| version.error_ratio = 0.4)),
            Truth::of(&["cart"], &[cause::BAD_IMAGE]),
        ),
        case(
            "bad configuration",
            bad_configuration(shop()),
            Truth::of(&["payment"], &[cause::BAD_CONFIG, cause::CONFIG_WRONG]),
        ),
        case(
            "network loss",
            network_loss(shop(), 0.4),
            Truth::of(&["checkout", "payment"], &[cause::NETWORK, cause::DEPENDENCY]),
        ),
        case("exhausted connection pool", exhausted_pool(shop(), "catalog"), Truth::of(&["catalog"], &[])),
        case(
            "node pressure",
            shop().when(BEGINS, |shop| shop.pressure("node-b")),
            Truth::of(&["node-b"], &[cause::NODE_PRESSURE]),
        ),
    ]
}

fn bad_configuration(shop: Stage) -> Stage {
    let mut shop = shop;
    let set = |shop: &mut Stage, value: &str| {
        shop.config_maps.insert("payment".to_owned(), [("TIMEOUT".to_owned(), value.to_owned())].into());
    };
    set(&mut shop, "30s");
    shop.behaves("payment").needs = vec![Need {
        config_map: "payment".to_owned(),
        key: "TIMEOUT".to_owned(),
        one_of: vec!["30s".to_owned()],
        error_ratio: 0.5,
    }];
    shop.behaves("payment").error_message = "invalid value for TIMEOUT".to_owned();
    shop.when(BEGINS - 30, move |shop| {
        set(shop, "thirty");
        shop.changed("payment", ChangeKind::Config, "-  TIMEOUT: 30s\n+  TIMEOUT: thirty\n", |_| {});
    })
}

fn network_loss(shop: Stage, share: f64) -> Stage {
    shop.when(BEGINS, move |shop| {
        if let Some(call) = shop.call("checkout", "payment") {
            call.lost = share;
        }
    })
}

fn exhausted_pool(shop: Stage, service: &'static str) -> Stage {
    shop.when(BEGINS, move |shop| {
        let version = shop.behaves(service);
        (version.error_ratio, version.latency_factor) = (0.35, 15.0);
        version.error_message = "pool - Connection is not available, request timed out after 30000ms".to_owned();
    })
}

/// Services that can fail for themselves, each seen by others.
const GUILTY: [&str; 5] = ["cart", "payment", "catalog", "currency", "shipping"];
/// Services that are released at the wrong moment.
const INNOCENT: [&str; 5] = ["ads", "email", "recommendation", "frontend", "catalog"];

/// Sixty cases in which something innocent looks guilty.
pub fn decoys() -> Vec<Case> {
    let mut cases = Vec::new();
    for number in 0..20_usize {
        cases.push(innocent_release(number));
    }
    for number in 0..7_u64 {
        let seed = 100 + number;
        let shop = || Stage::shop(seed);
        let guilty = GUILTY[number as usize % GUILTY.len()];
        let named = |what: &str| format!("{what} {number}");
        let factor = 3.0 + number as f64;
        cases.push(case(
            &named("traffic surge"),
            shop().when(BEGINS, move |shop| shop.service("frontend").rate *= factor),
            Truth::of(&["frontend"], &[cause::OVERLOAD, cause::CPU]),
        ));
        cases.push(case(
            &named("slow leak beside a failing release"),
            shop()
                .when(0, |shop| shop.behaves("ads").leak_mib_per_minute = 1.0)
                .when(BEGINS - 30, move |shop| shop.release(guilty, "1.1", |version| version.error_ratio = 0.3)),
            Truth::of(&[guilty], &[]),
        ));
        cases.push(case(
            &named("slow leak alone"),
            shop().when(0, move |shop| shop.behaves(guilty).leak_mib_per_minute = 0.8),
            Truth::of(&[guilty], &[cause::MEMORY, cause::MEMORY_LEAK]),
        ));
        if number < 6 {
            let node = ["node-a", "node-b", "node-c", "node-d"][number as usize % 4];
            cases.push(case(
                &named("node drain"),
                shop().when(BEGINS, move |shop| shop.drain(node)),
                Truth::of(&[node], &[cause::NODE_NOT_READY, cause::NODE_PRESSURE]),
            ));
            cases.push(case(&named("autoscaler flapping"), flapping(shop()), Truth::of(&["payment"], &[])));
            cases.push(case(&named("maintenance"), maintenance(shop()), Truth::of(&["email"], &[])));
        }
        if number < 1 {
            cases.push(case(&named("noisy neighbour"), noisy(shop()), Truth::of(&["payment"], &[])));
        }
    }
    cases
}

/// A release that does nothing wrong, within a minute of the real cause.
fn innocent_release(number: usize) -> Case {
    let guilty = GUILTY[number % GUILTY.len()];
    let innocent = match INNOCENT[(number / 5) % INNOCENT.len()] {
        same if same == guilty => "ads",
        other => other,
    };
    let apart = 10 * (number as i64 % 7) - 30;
    let shop = Stage::shop(number as u64).when(BEGINS + apart, move |shop| shop.release(innocent, "1.1", |_| {}));
    let (what, shop, kinds): (_, _, &[&'static str]) = match number % 4 {
        0 => (
            "release",
            shop.when(BEGINS, move |shop| shop.release(guilty, "1.1", |version| version.error_ratio = 0.3)),
            &[],
        ),
        1 => ("slowness", shop.when(BEGINS, move |shop| shop.behaves(guilty).latency_factor = 12.0), &[]),
        2 => ("pool", exhausted_pool(shop, guilty), &[]),
        _ => ("errors", shop.when(BEGINS, move |shop| shop.behaves(guilty).error_ratio = 0.3), &[]),
    };
    let kinds = if number.is_multiple_of(4) {
        kinds
    } else {
        &[cause::LATENCY, cause::CPU, cause::ERRORS, cause::DEPENDENCY, cause::BEHAVIOUR, cause::NETWORK]
    };
    case(&format!("{what} of {guilty} beside a release of {innocent}, {number}"), shop, Truth::of(&[guilty], kinds))
}

/// The autoscaler of one service goes up and down while another is slow.
fn flapping(shop: Stage) -> Stage {
    let mut shop = shop.when(BEGINS, |shop| shop.behaves("payment").latency_factor = 12.0);
    for (turn, second) in (BEGINS - 900..BEGINS + 500).step_by(120).enumerate() {
        shop = shop.when(second, move |shop| shop.scale("recommendation", if turn % 2 == 0 { 5 } else { 2 }));
    }
    shop
}

/// Somebody takes a service away on purpose.
fn maintenance(shop: Stage) -> Stage {
    shop.when(BEGINS, |shop| {
        shop.scale("email", 0);
        shop.note("email", ChangeKind::Scale, "-  replicas: 2\n+  replicas: 0\n", Vec::new(), Vec::new());
    })
}

/// A neighbour that is merely loud: busy and healthy, while another is slow.
fn noisy(shop: Stage) -> Stage {
    shop.when(BEGINS - 20, |shop| shop.service("ads").rate = 400.0)
        .when(BEGINS, |shop| shop.behaves("payment").latency_factor = 12.0)
}
