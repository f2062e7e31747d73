//! How services count and time their requests: the names that libraries, agents, meshes and proxies give them.
//!
//! Which of them a store holds is asked once, by name (see [`Prometheus`](crate::Prometheus)); nothing is assumed to be there.

use crate::mapping::Mapping;
use crate::promql::literal;

/// One way in which services count and time their requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestFamily {
    /// Counter of requests; key `requests`.
    pub requests: String,
    /// Histogram of durations without `_bucket`; key `duration`.
    pub duration: String,
    /// What one unit of the histogram is in seconds: 1 or 0.001; key `durationUnit` (`s` or `ms`).
    pub unit: Unit,
    /// Labels that may tell how a request ended, the plainest first; key `code` names the one that does.
    ///
    /// A request without any of them is neither a success nor a failure.
    pub codes: Vec<String>,
    /// Regular expression of codes that count as errors; key `errorCodes`.
    pub error_codes: String,
    /// Label of the service; key `service`.
    pub service: String,
    /// How that label tells it.
    pub service_form: ServiceForm,
    /// Label of the namespace; key `namespace`.
    pub namespace: String,
    /// Label of the pod; key `pod`. Empty: none, or it tells who counted instead of who answered.
    pub pod: String,
    /// How that label tells it.
    pub pod_form: PodForm,
    /// Label matchers that pick one of several counts of the same requests: those of the called side.
    pub only: Vec<(&'static str, &'static str)>,
}

/// Unit of a duration histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Seconds,
    Milliseconds,
}

/// How a label tells a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodForm {
    /// By its name.
    Name,
    /// Inside the path `/k8s/NAMESPACE/POD/CONTAINER`.
    Path,
}

impl PodForm {
    /// The expression for pods of a namespace whose names match `pods`.
    pub(crate) fn expression(self, namespace: &str, pods: &str) -> String {
        match self {
            Self::Name => pods.to_owned(),
            Self::Path => format!("/k8s/{}/(?:{pods})/[^/]+", literal(namespace)),
        }
    }

    /// Namespace and pod in a value, where the value tells both.
    pub(crate) fn read(self, value: &str) -> Option<(&str, &str)> {
        match self {
            Self::Name => None,
            Self::Path => {
                let (namespace, rest) = value.strip_prefix("/k8s/")?.split_once('/')?;
                let (pod, _) = rest.split_once('/')?;
                Some((namespace, pod))
            }
        }
    }
}

/// How a label tells a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceForm {
    /// By its name.
    Name,
    /// `NAMESPACE-SERVICE-PORT@kubernetes`, as Traefik's Kubernetes providers name a Service
    /// (<https://doc.traefik.io/traefik/observability/metrics/overview/>).
    Traefik,
    /// A cluster of Envoy: `outbound|PORT|SUBSET|SERVICE.NAMESPACE.svc.DOMAIN` (Istio) or `NAMESPACE_SERVICE_PORT` (Contour).
    Envoy,
}

impl ServiceForm {
    /// The expression for services of a namespace whose names match `services`, with the name in its first group that matches;
    /// `None`: the label tells the name and nothing else.
    pub(crate) fn expression(self, namespace: &str, services: &str) -> Option<String> {
        let namespace = literal(namespace);
        match self {
            Self::Name => None,
            Self::Traefik => Some(format!("{namespace}-({services})-[0-9a-z]+@kubernetes(?:crd|gateway)?")),
            Self::Envoy => Some(format!(
                "(?:outbound\\|[0-9]+\\|[^|]*\\|)?({services})\\.{namespace}\\.svc(?:\\..+)?|{namespace}_({services})_[0-9]+"
            )),
        }
    }
}

/// Labels that tell how a request ended, as client libraries, OpenTelemetry, meshes and proxies call them.
pub(crate) const CODES: [&str; 10] = [
    "code",
    "status",
    "status_code",
    "http_status_code",
    "http_response_status_code",
    "response_code",
    "grpc_code",
    "rpc_grpc_status_code",
    "outcome",
    "envoy_response_code",
];

/// Codes that count as errors of the answering side.
///
/// HTTP: `5..` and the classes `5xx`. gRPC: those that OpenTelemetry holds for errors of a server, by name and number
/// (<https://opentelemetry.io/docs/specs/semconv/rpc/grpc/>): unknown, deadline exceeded, unimplemented, internal, unavailable,
/// data loss. Micrometer's `outcome` (`io.micrometer.core.instrument.binder.http.Outcome`), and the status of a span.
const ERRORS: &str = concat!(
    "5..|[Uu]nknown|UNKNOWN|DeadlineExceeded|DEADLINE_EXCEEDED|Unimplemented|UNIMPLEMENTED|Internal|INTERNAL",
    "|Unavailable|UNAVAILABLE|DataLoss|DATA_LOSS|2|4|12|13|14|15|SERVER_ERROR|STATUS_CODE_ERROR",
    "|[Ee]rror|ERROR|[Ff]ailure|FAILURE|[Ff]ailed|FAILED",
);

/// Who the samples are about, by the labels that they came with.
#[derive(Clone, Copy, Debug)]
enum Labels {
    /// A scraped pod: the labels of the target, under the names of the mapping.
    Scraped,
    /// Pushed by OpenTelemetry: resource attributes promoted to labels.
    Pushed,
    /// A Tempo generator, whose label of the service is its own.
    Spans,
    /// A proxy that tells another's namespace and service in its own labels; the pod is the proxy's.
    Proxy,
    /// The same where the scraper kept the names for itself (`honor_labels: false`).
    ProxyExported,
}

/// Names of metrics in one row: the counter, the histogram and its unit, by whom they are labelled.
type Row = (&'static str, &'static str, Unit, &'static [Labels]);

/// Spans that answer a request; others are counted beside them.
const SERVER_SPANS: (&str, &str) = ("span_kind", "SPAN_KIND_SERVER");

/// Rows of libraries, tried in this order; the meshes stand behind the first two.
///
/// * Prometheus client libraries and their guides: `http_requests_total`, `http_request_duration_seconds`; many count by the
///   histogram alone.
/// * Micrometer (<https://docs.spring.io/spring-boot/reference/actuator/metrics.html#actuator.metrics.supported.spring-mvc>).
/// * OpenTelemetry's HTTP conventions, stable and before
///   (<https://opentelemetry.io/docs/specs/semconv/http/http-metrics/>, <https://opentelemetry.io/docs/specs/semconv/non-normative/http-migration/>),
///   scraped from the library or pushed with resource attributes promoted (`promote_resource_attributes` of Prometheus' OTLP
///   receiver). Beyla writes the same names.
/// * gRPC's Go and Java interceptors (<https://github.com/grpc-ecosystem/go-grpc-middleware/tree/main/providers/prometheus>).
/// * OpenTelemetry's RPC conventions (<https://opentelemetry.io/docs/specs/semconv/rpc/rpc-metrics/>).
const LIBRARIES: [Row; 8] = [
    ("http_requests_total", "http_request_duration_seconds", Unit::Seconds, &[Labels::Scraped]),
    (
        "http_server_request_duration_seconds_count",
        "http_server_request_duration_seconds",
        Unit::Seconds,
        &[Labels::Pushed, Labels::Scraped],
    ),
    ("http_server_requests_seconds_count", "http_server_requests_seconds", Unit::Seconds, &[Labels::Scraped]),
    (
        "http_server_duration_milliseconds_count",
        "http_server_duration_milliseconds",
        Unit::Milliseconds,
        &[Labels::Pushed, Labels::Scraped],
    ),
    ("http_request_duration_seconds_count", "http_request_duration_seconds", Unit::Seconds, &[Labels::Scraped]),
    ("grpc_server_handled_total", "grpc_server_handling_seconds", Unit::Seconds, &[Labels::Scraped]),
    (
        "rpc_server_duration_milliseconds_count",
        "rpc_server_duration_milliseconds",
        Unit::Milliseconds,
        &[Labels::Pushed, Labels::Scraped],
    ),
    ("rpc_server_duration_seconds_count", "rpc_server_duration_seconds", Unit::Seconds, &[Labels::Pushed]),
];

/// Rows of those who count spans: Tempo's generator
/// (<https://grafana.com/docs/tempo/latest/metrics-from-traces/span-metrics/>) and OpenTelemetry's connector, with the names of
/// its default and of its earlier versions
/// (<https://github.com/open-telemetry/opentelemetry-collector-contrib/tree/main/connector/spanmetricsconnector>).
///
/// They must tell the namespace (`k8s_namespace_name`): a name alone may be that of staging.
const SPANS: [Row; 3] = [
    ("traces_spanmetrics_calls_total", "traces_spanmetrics_latency", Unit::Seconds, &[Labels::Spans, Labels::Pushed]),
    (
        "traces_span_metrics_calls_total",
        "traces_span_metrics_duration_milliseconds",
        Unit::Milliseconds,
        &[Labels::Pushed],
    ),
    ("calls_total", "duration_milliseconds", Unit::Milliseconds, &[Labels::Pushed]),
];

/// How many of the known families are asked for in a store that does not say what it holds: the libraries and meshes that are
/// met most. Each costs up to two questions.
pub(crate) const ASKED_BLINDLY: usize = 7;

impl RequestFamily {
    /// Every known family, the likeliest first.
    pub(crate) fn known(mapping: &Mapping) -> Vec<Self> {
        let rows = |rows: &'static [Row]| rows.iter().flat_map(|row| row.3.iter().map(move |labels| (row, *labels)));
        let of = |(row, labels): (&Row, Labels)| Self::of(row, labels, mapping);
        let (common, rarer) = LIBRARIES.split_at(2);
        let spans = rows(&SPANS).map(of).map(|family| Self { only: vec![SERVER_SPANS], ..family });
        let meshes = [Self::istio(), Self::linkerd(), Self::hubble(), Self::coroot()];
        let known = rows(common).map(of).chain(meshes).chain(rows(rarer).map(of)).chain(spans);
        known.chain(Self::proxies(mapping)).collect()
    }

    /// The family whose names a mapping overrides: `http_requests_total` and `http_request_duration_seconds`.
    pub(crate) fn standard(mapping: &Mapping) -> Self {
        Self::of(&LIBRARIES[0], Labels::Scraped, mapping)
    }

    fn of((requests, duration, unit, _): &Row, labels: Labels, mapping: &Mapping) -> Self {
        let (service, namespace, pod) = match labels {
            Labels::Scraped => (mapping.service.as_str(), mapping.namespace.as_str(), mapping.pod.as_str()),
            Labels::Pushed => ("service_name", "k8s_namespace_name", "k8s_pod_name"),
            Labels::Spans => ("service", "k8s_namespace_name", "k8s_pod_name"),
            Labels::Proxy => ("service", "namespace", ""),
            Labels::ProxyExported => ("exported_service", "exported_namespace", ""),
        };
        Self {
            requests: (*requests).to_owned(),
            duration: (*duration).to_owned(),
            unit: *unit,
            codes: CODES.map(str::to_owned).into(),
            error_codes: ERRORS.to_owned(),
            service: service.to_owned(),
            service_form: ServiceForm::Name,
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            pod_form: PodForm::Name,
            only: Vec::new(),
        }
    }

    /// Istio's standard metrics, as the called side counts them (<https://istio.io/latest/docs/reference/config/metrics/>).
    fn istio() -> Self {
        Self {
            requests: "istio_requests_total".to_owned(),
            duration: "istio_request_duration_milliseconds".to_owned(),
            unit: Unit::Milliseconds,
            codes: vec!["response_code".to_owned()],
            error_codes: "5..".to_owned(),
            service: "destination_workload".to_owned(),
            service_form: ServiceForm::Name,
            namespace: "destination_workload_namespace".to_owned(),
            pod: "pod".to_owned(),
            pod_form: PodForm::Name,
            only: vec![("reporter", "destination")],
        }
    }

    /// Linkerd's proxy metrics on the inbound side; a response is classified as success or failure
    /// (<https://linkerd.io/2/reference/proxy-metrics/>).
    fn linkerd() -> Self {
        Self {
            requests: "response_total".to_owned(),
            duration: "response_latency_ms".to_owned(),
            unit: Unit::Milliseconds,
            codes: vec!["classification".to_owned()],
            error_codes: "failure".to_owned(),
            service: "deployment".to_owned(),
            service_form: ServiceForm::Name,
            namespace: "namespace".to_owned(),
            pod: "pod".to_owned(),
            pod_form: PodForm::Name,
            only: vec![("direction", "inbound")],
        }
    }

    /// Hubble's `httpV2` metrics with workloads as context labels
    /// (<https://docs.cilium.io/en/stable/observability/metrics/#httpv2>): `method`, `protocol`, `status` and `reporter`
    /// stand beside them in `pkg/hubble/metrics/http/handler.go` of <https://github.com/cilium/cilium>, read at e0cc421a. The
    /// older `http` metrics have no `status` on requests, so their errors stay unknown.
    fn hubble() -> Self {
        Self {
            requests: "hubble_http_requests_total".to_owned(),
            duration: "hubble_http_request_duration_seconds".to_owned(),
            unit: Unit::Seconds,
            codes: vec!["status".to_owned()],
            error_codes: "5..".to_owned(),
            service: "destination_workload".to_owned(),
            service_form: ServiceForm::Name,
            namespace: "destination_namespace".to_owned(),
            // `pod` is the agent's.
            pod: String::new(),
            pod_form: PodForm::Name,
            only: vec![("reporter", "server")],
        }
    }

    /// What Coroot's node agent counts by eBPF on the answering side: containers by their path, statuses as codes or classes
    /// (`containers/metrics.go`, `containers/l7.go` of <https://github.com/coroot/coroot-node-agent>, read at 15e3563b).
    ///
    /// Its older `container_http_requests_total` counts on the calling side and tells the other only by address; it says who
    /// calls whom (see [`calls`](crate::calls)).
    fn coroot() -> Self {
        Self {
            requests: "container_http_inbound_requests_total".to_owned(),
            duration: "container_http_inbound_requests_duration_seconds_total".to_owned(),
            unit: Unit::Seconds,
            codes: vec!["status".to_owned()],
            error_codes: "5..".to_owned(),
            service: String::new(),
            service_form: ServiceForm::Name,
            namespace: String::new(),
            pod: "container_id".to_owned(),
            pod_form: PodForm::Path,
            only: Vec::new(),
        }
    }

    /// What proxies in front of a service count of it: ingress-nginx
    /// (<https://kubernetes.github.io/ingress-nginx/user-guide/monitoring/>), Traefik
    /// (<https://doc.traefik.io/traefik/observability/metrics/overview/>), and Envoy, whose times are in milliseconds
    /// (<https://www.envoyproxy.io/docs/envoy/latest/configuration/upstream/cluster_manager/cluster_stats>).
    fn proxies(mapping: &Mapping) -> Vec<Self> {
        let nginx = (
            "nginx_ingress_controller_requests",
            "nginx_ingress_controller_request_duration_seconds",
            Unit::Seconds,
            [].as_slice(),
        );
        let traefik = (
            "traefik_service_requests_total",
            "traefik_service_request_duration_seconds",
            Unit::Seconds,
            [].as_slice(),
        );
        let envoy = ("envoy_cluster_upstream_rq", "envoy_cluster_upstream_rq_time", Unit::Milliseconds, [].as_slice());
        let mut all = Vec::new();
        for labels in [Labels::ProxyExported, Labels::Proxy] {
            all.push(Self { codes: vec!["status".to_owned()], ..Self::of(&nginx, labels, mapping) });
        }
        for labels in [Labels::ProxyExported, Labels::Proxy] {
            // The namespace stands in the name.
            let (namespace, codes) = (String::new(), vec!["code".to_owned()]);
            all.push(Self {
                namespace,
                codes,
                service_form: ServiceForm::Traefik,
                ..Self::of(&traefik, labels, mapping)
            });
        }
        all.push(Self {
            service: "envoy_cluster_name".to_owned(),
            service_form: ServiceForm::Envoy,
            namespace: String::new(),
            codes: vec!["envoy_response_code".to_owned()],
            ..Self::of(&envoy, Labels::Proxy, mapping)
        });
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use regex::Regex;

    fn whole(expression: &str) -> Regex {
        Regex::new(&format!("^(?:{expression})$")).unwrap()
    }

    #[test]
    fn codes_of_http_grpc_micrometer_and_spans_are_told_from_successes() {
        let errors = whole(ERRORS);
        for code in ["500", "503", "5xx", "Unavailable", "DeadlineExceeded", "14", "SERVER_ERROR", "STATUS_CODE_ERROR"]
        {
            assert!(errors.is_match(code), "{code}");
        }
        for code in ["200", "404", "2xx", "OK", "0", "NotFound", "5", "SUCCESS", "CLIENT_ERROR", "STATUS_CODE_UNSET"] {
            assert!(!errors.is_match(code), "{code}");
        }
    }

    #[test]
    fn names_that_proxies_make_are_read_back_and_neighbours_are_not_taken() {
        let read = |form: ServiceForm, value: &str| -> Option<String> {
            let found = whole(&form.expression("shop", "cart|checkout")?);
            let found = found.captures(value)?;
            found.iter().skip(1).flatten().next().map(|name| name.as_str().to_owned())
        };
        for (form, value, name) in [
            (ServiceForm::Traefik, "shop-checkout-8080@kubernetes", Some("checkout")),
            (ServiceForm::Traefik, "shop-checkout-http@kubernetescrd", Some("checkout")),
            (ServiceForm::Traefik, "shop-checkout-worker-8080@kubernetes", None),
            (ServiceForm::Traefik, "staging-checkout-8080@kubernetes", None),
            (ServiceForm::Envoy, "outbound|8080||cart.shop.svc.cluster.local", Some("cart")),
            (ServiceForm::Envoy, "shop_cart_8080", Some("cart")),
            (ServiceForm::Envoy, "staging_cart_8080", None),
        ] {
            assert_eq!(read(form, value).as_deref(), name, "{value}");
        }
    }

    #[test]
    fn no_family_is_there_twice() {
        let known = RequestFamily::known(&Mapping::default());
        for (at, family) in known.iter().enumerate() {
            assert!(!known[..at].contains(family), "{family:?}");
        }
    }
}
