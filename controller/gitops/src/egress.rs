//! The one way out: every connection to a forge or a repository is made through a client from here.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Once};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// A connection that is not made by the next five seconds will not be useful to an incident.
const CONNECT: Duration = Duration::from_secs(5);

/// Why an address may not be called.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    #[error("{host} is called over plain http, which is allowed only where private addresses are")]
    PlainHttp { host: String },
    #[error("{host} is a loopback, private or reserved address, and this target does not allow those")]
    PrivateAddress { host: String },
    #[error("the URL of {host} carries credentials")]
    Credentials { host: String },
    #[error("the URL has no host")]
    NoHost,
    #[error("cannot set up the HTTP client")]
    Client(#[source] reqwest::Error),
}

/// A client that calls the host of `base` and follows nobody elsewhere.
///
/// No redirects (a token must not travel to another host), no proxy from the environment, no retries (a
/// repeated write is a second write), and no private address unless allowed. The name is resolved by the
/// same guard that the connection uses, so a name cannot change its mind between check and call.
pub fn client(base: &Url, allow_private: bool, authority: Option<&str>) -> Result<reqwest::Client, EgressError> {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // An error only says that the process has chosen one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    let host = base.host().ok_or(EgressError::NoHost)?;
    if !base.username().is_empty() || base.password().is_some() {
        return Err(EgressError::Credentials { host: host.to_string() });
    }
    if base.scheme() != "https" && !allow_private {
        return Err(EgressError::PlainHttp { host: host.to_string() });
    }
    let literal = match host {
        Host::Ipv4(address) => Some(IpAddr::V4(address)),
        Host::Ipv6(address) => Some(IpAddr::V6(address)),
        Host::Domain(_) => None,
    };
    if literal.is_some_and(|address| !allow_private && is_reserved(address)) {
        return Err(EgressError::PrivateAddress { host: host.to_string() });
    }
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("amend/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .connect_timeout(CONNECT)
        .https_only(!allow_private)
        .dns_resolver(Arc::new(Guard { allow_private }));
    if let Some(authority) = authority {
        let roots = reqwest::Certificate::from_pem_bundle(authority.as_bytes()).map_err(EgressError::Client)?;
        builder = builder.tls_certs_merge(roots);
    }
    builder.build().map_err(EgressError::Client)
}

struct Guard {
    allow_private: bool,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.allow_private;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            if !allow_private && found.iter().any(|address| is_reserved(address.ip())) {
                return Err(EgressError::PrivateAddress { host: name.as_str().to_owned() }.into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Whether an address is anything but a plain public unicast one (IANA special-purpose registries).
pub(crate) fn is_reserved(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_documentation()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && (b == 18 || b == 19))
        }
        IpAddr::V6(v6) => match embedded_v4(v6) {
            Some(v4) => is_reserved(IpAddr::V4(v4)),
            None => {
                let first = v6.segments()[0];
                v6.is_loopback()
                    || v6.is_unspecified()
                    || v6.is_multicast()
                    || first & 0xfe00 == 0xfc00
                    || first & 0xffc0 == 0xfe80
                    || (first == 0x2001 && v6.segments()[1] == 0xdb8)
            }
        },
    }
}

/// The IPv4 address inside a mapped, NAT64 or 6to4 address.
fn embedded_v4(v6: Ipv6Addr) -> Option<std::net::Ipv4Addr> {
    let segments = v6.segments();
    let join = |high: u16, low: u16| std::net::Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match segments {
        [0, 0, 0, 0, 0, 0xffff, high, low] => Some(join(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(join(high, low)),
        [0x2002, high, low, ..] => Some(join(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_not_public_are_recognised() {
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "192.168.0.1",
            "172.16.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:127.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "255.255.255.255",
        ] {
            assert!(is_reserved(address.parse().unwrap()), "{address}");
        }
        for address in ["8.8.8.8", "140.82.121.3", "2606:4700::1111", "::ffff:8.8.8.8"] {
            assert!(!is_reserved(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_private_literal_or_plain_http_needs_permission() {
        let private = Url::parse("https://10.0.0.7/a/b").unwrap();
        assert!(matches!(client(&private, false, None), Err(EgressError::PrivateAddress { .. })));
        assert!(client(&private, true, None).is_ok());
        let plain = Url::parse("http://git.example.com/a/b").unwrap();
        assert!(matches!(client(&plain, false, None), Err(EgressError::PlainHttp { .. })));
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_a_private_address_is_not_called() {
        let base = Url::parse("https://localhost:1/").unwrap();
        let error = client(&base, false, None).unwrap().get(base).send().await.unwrap_err();
        let chain = crate::error::chain(&error);
        assert!(chain.contains("loopback, private or reserved"), "{chain}");
    }
}
