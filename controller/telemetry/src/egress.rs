//! The guard of outgoing connections: who may be called, decided on the address that is really connected to.
//!
//! A `TelemetrySource` is written by tenants, so its URL is a way to make Amend call things that only Amend can reach
//! (server-side request forgery). Checking the name is not enough, names are rebound; the check sits in the resolver
//! that the HTTP client uses, and redirects and proxies are off.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Component, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// Addresses where clouds hand out the machine's own credentials; refused even where a listed network contains them.
///
/// AWS, GCP, Azure, OpenStack and others: 169.254.169.254 and fd00:ec2::254; AWS task roles 169.254.170.2 and .23;
/// Azure's wire server 168.63.129.16; Alibaba 100.100.100.200; Oracle 192.0.0.192.
const METADATA: [IpAddr; 8] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// One entry of the allow-list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Allowed {
    /// This name, or with `*.` in front any name below it. Opens private addresses behind the name, as in-cluster
    /// services have, but neither loopback nor link-local ones: those need their network listed.
    Host(String),
    /// Every address in this network.
    Network(IpNet),
    /// The files of this directory and of those below it, for stores that are files. Never read from text: whoever names one
    /// decides what may be read, and does so apart from addresses.
    Directory(PathBuf),
}

/// A directory that may be read, by its name: where it really lies is looked at each time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readable {
    /// What is listed.
    pub root: PathBuf,
    /// What is asked for, at or below it.
    pub path: PathBuf,
}

impl FromStr for Allowed {
    type Err = EgressError;

    /// Reads `10.0.0.0/8`, `127.0.0.1`, `prometheus.monitoring.svc` or `*.svc.cluster.local`.
    fn from_str(text: &str) -> Result<Self, EgressError> {
        let unreadable = || EgressError::Unreadable { entry: text.chars().take(100).collect() };
        if let Ok(network) = text.parse::<IpNet>() {
            return Ok(Self::Network(network));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(IpNet::from(address)));
        }
        let name = text.strip_prefix("*.").unwrap_or(text);
        let plain = !name.is_empty()
            && name.split('.').all(|label| !label.is_empty())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
        // A last label of digits would be an address written badly, not a name.
        let numeric = name.rsplit('.').next().is_some_and(|label| label.chars().all(|c| c.is_ascii_digit()));
        match plain && !numeric {
            true => Ok(Self::Host(text.to_ascii_lowercase())),
            false => Err(unreadable()),
        }
    }
}

/// Why a connection was refused. The message names what to list to allow it.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    #[error("allow-list entry {entry:?} is neither a host name, an address nor a network like 10.0.0.0/8")]
    Unreadable { entry: String },
    #[error("the URL's scheme is {scheme:?}; only http and https are called")]
    Scheme { scheme: String },
    #[error("the URL carries a user name or password; put them into the Secret instead")]
    UserInfo,
    #[error("the URL names no host")]
    NoHost,
    #[error("{host} is called over plain http but is not in the egress allow-list; use https or list it")]
    Plain { host: String },
    #[error("{host} is at {address}, which hands out cloud credentials and is never called")]
    Metadata { host: String, address: IpAddr },
    #[error("{host} is at {address}, which is {sort}; list its network in the egress allow-list to allow it")]
    NotListed { host: String, address: IpAddr, sort: &'static str },
    #[error("{host} has no address")]
    NoAddress { host: String },
    #[error("{url} is no file URL like file:///otlp/shop")]
    NoDirectory { url: String },
    #[error(
        "{path} is not below a directory that may be read here: the one that --telemetry-files names, and in it the one of the namespace"
    )]
    NotReadable { path: String },
}

/// Who may be called. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Egress {
    allowed: Arc<[Allowed]>,
}

impl Egress {
    /// A guard with this allow-list. Public addresses need no entry as long as they are called over https.
    pub fn new(allowed: impl IntoIterator<Item = Allowed>) -> Self {
        Self { allowed: allowed.into_iter().collect() }
    }

    /// Checks what can be said before any name is resolved.
    ///
    /// # Errors
    /// Scheme, user info, plain http to an unlisted host, or an address literal that is not allowed.
    pub fn check_url(&self, url: &Url) -> Result<(), EgressError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(EgressError::Scheme { scheme: url.scheme().chars().take(20).collect() });
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(EgressError::UserInfo);
        }
        let address = match url.host() {
            None => return Err(EgressError::NoHost),
            Some(Host::Domain(_)) => None,
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
        };
        let host = url.host_str().unwrap_or_default();
        match address {
            Some(address) => {
                self.check_address(host, address)?;
                match url.scheme() == "https" || self.lists(address) {
                    true => Ok(()),
                    false => Err(EgressError::Plain { host: host.to_owned() }),
                }
            }
            // A name that is not listed may still lie in a listed network; then plain http is that network's business
            // and the resolver decides, see `resolve`.
            None if url.scheme() == "https" || self.names(host) || self.has_networks() => Ok(()),
            None => Err(EgressError::Plain { host: host.to_owned() }),
        }
    }

    /// Checks an address that a name resolved to, or that stands in the URL itself.
    ///
    /// # Errors
    /// Metadata services always; loopback, link-local, private and special addresses where they are not listed.
    pub fn check_address(&self, host: &str, address: IpAddr) -> Result<(), EgressError> {
        let address = plain(address);
        if METADATA.contains(&address) {
            return Err(EgressError::Metadata { host: host.to_owned(), address });
        }
        let sort = sort(address);
        let allowed = match sort {
            Sort::Public => true,
            Sort::Private => self.lists(address) || self.names(host),
            Sort::Loopback | Sort::LinkLocal => self.lists(address),
            Sort::Special => false,
        };
        match allowed {
            true => Ok(()),
            false => Err(EgressError::NotListed { host: host.to_owned(), address, sort: sort.words() }),
        }
    }

    /// Checks a `file` URL by its name; links are followed, and checked, when it is read.
    ///
    /// # Errors
    /// It is no path, or lies outside of every listed directory.
    pub fn check_directory(&self, url: &Url) -> Result<Readable, EgressError> {
        let shown = || url.as_str().chars().take(200).collect::<String>();
        let path = match url.scheme() == "file" && url.query().is_none() && url.fragment().is_none() {
            true => url.to_file_path().map_err(|()| EgressError::NoDirectory { url: shown() })?,
            false => return Err(EgressError::NoDirectory { url: shown() }),
        };
        // An escaped slash may hide a step upwards from the parser of URLs.
        let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let listed = self.allowed.iter().find_map(|entry| match entry {
            Allowed::Directory(root) => (plain && path.starts_with(root)).then(|| root.clone()),
            Allowed::Host(_) | Allowed::Network(_) => None,
        });
        match listed {
            Some(root) => Ok(Readable { root, path }),
            None => Err(EgressError::NotReadable { path: shown() }),
        }
    }

    /// The same guard with one more entry: what the person at the terminal named.
    pub fn with(&self, more: Allowed) -> Self {
        Self::new(self.allowed.iter().cloned().chain([more]))
    }

    /// The same guard for what somebody in a namespace wrote: of each listed directory only the one that bears its name.
    pub fn of_namespace(&self, namespace: &str) -> Self {
        let narrowed = self.allowed.iter().map(|entry| match entry {
            Allowed::Directory(root) => Allowed::Directory(root.join(namespace)),
            Allowed::Host(_) | Allowed::Network(_) => entry.clone(),
        });
        Self::new(narrowed)
    }

    fn lists(&self, address: IpAddr) -> bool {
        let address = plain(address);
        self.allowed.iter().any(|entry| matches!(entry, Allowed::Network(network) if network.contains(&address)))
    }

    fn names(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.allowed.iter().any(|entry| match entry {
            Allowed::Host(name) => match name.strip_prefix('*') {
                Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
                None => *name == host,
            },
            Allowed::Network(_) | Allowed::Directory(_) => false,
        })
    }

    fn has_networks(&self) -> bool {
        self.allowed.iter().any(|entry| matches!(entry, Allowed::Network(_)))
    }

    /// The resolver to give to an HTTP client: it yields only addresses that may be called.
    ///
    /// `plain` is whether the client will speak plain http; then an address must be listed, or its name.
    pub fn resolver(&self, plain: bool) -> Arc<Guarded> {
        Arc::new(Guarded { egress: self.clone(), plain })
    }
}

/// A DNS resolver behind the guard.
#[derive(Clone, Debug)]
pub struct Guarded {
    egress: Egress,
    plain: bool,
}

impl Guarded {
    /// The addresses that may be called, of those that a name has.
    ///
    /// One forbidden address refuses the name altogether: a name that points both outside and inside is how rebinding
    /// looks.
    fn permitted(&self, host: &str, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, EgressError> {
        if found.is_empty() {
            return Err(EgressError::NoAddress { host: host.to_owned() });
        }
        for address in &found {
            self.egress.check_address(host, address.ip())?;
            if self.plain && !self.egress.names(host) && !self.egress.lists(address.ip()) {
                return Err(EgressError::Plain { host: host.to_owned() });
            }
        }
        Ok(found)
    }
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let permitted = guard.permitted(&host, found)?;
            Ok(Box::new(permitted.into_iter()) as Addrs)
        })
    }
}

/// What sort of place an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Public,
    Private,
    Loopback,
    LinkLocal,
    /// Never a server: unspecified, multicast, broadcast, reserved.
    Special,
}

impl Sort {
    fn words(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Loopback => "loopback",
            Self::LinkLocal => "link-local",
            Self::Special => "not the address of a server",
        }
    }
}

/// The address that packets really go to: an IPv4 address wrapped in IPv6 (mapped, NAT64, 6to4) is unwrapped.
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(six) = address else { return address };
    if let Some(four) = six.to_ipv4_mapped() {
        return IpAddr::V4(four);
    }
    let segments = six.segments();
    let four = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => four(high, low),
        [0x2002, high, low, ..] => four(high, low),
        _ => address,
    }
}

/// IANA's special-purpose registries (RFC 6890), as far as they matter to a caller.
fn sort(address: IpAddr) -> Sort {
    match address {
        IpAddr::V4(four) => match four.octets() {
            [127, ..] => Sort::Loopback,
            [169, 254, ..] => Sort::LinkLocal,
            [10, ..] | [192, 168, ..] => Sort::Private,
            [172, second, ..] if (16..32).contains(&second) => Sort::Private,
            // Carrier-grade NAT: pod and node networks of several clouds.
            [100, second, ..] if (64..128).contains(&second) => Sort::Private,
            // Benchmarking networks, used privately.
            [198, 18 | 19, ..] => Sort::Private,
            [0, ..] | [192, 0, 0, _] => Sort::Special,
            [first, ..] if first >= 224 => Sort::Special,
            _ => Sort::Public,
        },
        IpAddr::V6(six) => {
            let first = six.segments()[0];
            match () {
                () if six.is_loopback() => Sort::Loopback,
                () if six.is_unspecified() || six.is_multicast() => Sort::Special,
                () if first & 0xffc0 == 0xfe80 => Sort::LinkLocal,
                // Unique local, and the site-local range that it replaced.
                () if first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfec0 => Sort::Private,
                // IPv4-compatible addresses are deprecated and only ever seen in attacks.
                () if six.segments()[..6] == [0; 6] => Sort::Special,
                () => Sort::Public,
            }
        }
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => write!(out, "{host}"),
            Self::Network(network) => write!(out, "{network}"),
            Self::Directory(directory) => write!(out, "{}", directory.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(entries: &[&str]) -> Egress {
        Egress::new(entries.iter().map(|entry| entry.parse().unwrap()))
    }

    fn refusal(guard: &Egress, url: &str) -> Option<String> {
        guard.check_url(&url.parse().unwrap()).err().map(|error| error.to_string())
    }

    fn resolved(guard: &Egress, plain: bool, host: &str, addresses: &[&str]) -> Result<usize, String> {
        let found = addresses.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 0)).collect();
        guard.resolver(plain).permitted(host, found).map(|found| found.len()).map_err(|error| error.to_string())
    }

    #[test]
    fn public_https_needs_no_entry_and_plain_http_does() {
        let open = guard(&[]);
        assert_eq!(refusal(&open, "https://metrics.example.com/p"), None);
        assert!(refusal(&open, "http://metrics.example.com").unwrap().contains("plain http"));
        assert_eq!(refusal(&guard(&["metrics.example.com"]), "http://metrics.example.com"), None);
        assert!(resolved(&guard(&["10.0.0.0/8"]), true, "metrics.example.com", &["203.0.114.9"]).is_err());
    }

    #[test]
    fn other_schemes_and_credentials_in_the_url_are_refused() {
        assert!(refusal(&guard(&[]), "file:///etc/passwd").unwrap().contains("scheme"));
        assert!(refusal(&guard(&[]), "gopher://x/").unwrap().contains("scheme"));
        assert!(refusal(&guard(&[]), "https://u:p@example.com/").unwrap().contains("Secret"));
    }

    #[test]
    fn loopback_needs_its_network_listed_and_the_name_is_not_enough() {
        assert!(refusal(&guard(&[]), "http://127.0.0.1:9090").unwrap().contains("loopback"));
        assert_eq!(refusal(&guard(&["127.0.0.0/8"]), "http://127.0.0.1:9090"), None);
        assert!(resolved(&guard(&["localhost"]), true, "localhost", &["127.0.0.1"]).unwrap_err().contains("loopback"));
        assert_eq!(resolved(&guard(&["127.0.0.1", "::1"]), true, "localhost", &["127.0.0.1", "::1"]), Ok(2));
    }

    #[test]
    fn a_listed_name_opens_private_addresses_behind_it() {
        let guard = guard(&["*.svc.cluster.local", "prometheus.monitoring.svc"]);
        assert_eq!(resolved(&guard, true, "prometheus.monitoring.svc", &["10.96.0.12"]), Ok(1));
        assert_eq!(resolved(&guard, true, "loki.logs.svc.cluster.local", &["fd00::12"]), Ok(1));
        assert!(resolved(&guard, false, "evil.example.com", &["10.96.0.12"]).unwrap_err().contains("private"));
        assert!(resolved(&guard, false, "svc.cluster.local", &["10.96.0.12"]).is_err());
    }

    #[test]
    fn metadata_addresses_are_refused_even_where_their_network_is_listed() {
        let guard = guard(&["0.0.0.0/0", "::/0"]);
        for address in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "100.100.100.200",
            "168.63.129.16",
            "fd00:ec2::254",
        ] {
            let why = resolved(&guard, false, "metrics.example.com", &[address]).unwrap_err();
            assert!(why.contains("cloud credentials"), "{address}: {why}");
        }
    }

    #[test]
    fn one_forbidden_address_refuses_the_whole_name() {
        let why = resolved(&guard(&[]), false, "rebind.example.com", &["203.0.114.9", "192.168.1.1"]).unwrap_err();
        assert!(why.contains("192.168.1.1"), "{why}");
    }

    #[test]
    fn odd_spellings_of_loopback_are_seen_through() {
        for url in ["http://2130706433/", "http://0x7f.1/", "http://[::ffff:127.0.0.1]/", "http://0.0.0.0/"] {
            assert!(refusal(&guard(&[]), url).is_some(), "{url}");
        }
    }

    #[test]
    fn an_unreadable_entry_is_named() {
        for entry in ["10.0.0.0/33", "http://x", "", "*", "*.", "300.1.1.1", "a b"] {
            assert!(entry.parse::<Allowed>().is_err(), "{entry}");
        }
    }

    fn readable(root: &str, url: &str) -> Result<String, String> {
        let guard = Egress::new([Allowed::Directory(root.into())]);
        let url: Url = url.parse().unwrap();
        guard.check_directory(&url).map(|found| found.path.display().to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn only_what_lies_below_a_listed_directory_is_read() {
        assert_eq!(readable("/otlp", "file:///otlp/shop"), Ok("/otlp/shop".to_owned()));
        for outside in [
            "file:///otlp/../etc",
            "file:///otlp/%2e%2e/etc",
            "file:///otlp/..%2F..%2Fetc",
            "file:///otlp2/shop",
            "file:///etc",
            "file:///",
        ] {
            let why = readable("/otlp", outside).unwrap_err();
            assert!(why.contains("may be read"), "{outside}: {why}");
        }
        for other in ["http://otlp/shop", "file://elsewhere/otlp/shop", "file:///otlp/shop?x"] {
            assert!(readable("/otlp", other).unwrap_err().contains("no file URL"), "{other}");
        }
        assert!(Egress::new([]).check_directory(&"file:///otlp".parse().unwrap()).is_err());
    }

    #[test]
    fn a_namespace_reads_the_directory_of_its_own_name_only() {
        let guard = Egress::new([Allowed::Directory("/otlp".into())]).of_namespace("shop");
        let may = |url: &str| guard.check_directory(&url.parse().unwrap()).is_ok();
        assert!(may("file:///otlp/shop") && may("file:///otlp/shop/traces"));
        assert!(!may("file:///otlp") && !may("file:///otlp/pay") && !may("file:///otlp/shop/../pay"));
    }
}
