//! Classification: what sort of trouble a line speaks of, by a catalogue that carries its own tests.

use std::fmt;
use std::sync::LazyLock;

use regex::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a line speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    Dns,
    Tls,
    Network,
    Database,
    Memory,
    Disk,
    Quota,
    Permission,
    Timeout,
    Dependency,
    Configuration,
    Toolchain,
    Compile,
    Test,
    Other,
}

impl fmt::Display for Class {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::Network => "network",
            Self::Database => "database",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Quota => "quota",
            Self::Permission => "permission",
            Self::Timeout => "timeout",
            Self::Dependency => "dependency",
            Self::Configuration => "configuration",
            Self::Toolchain => "toolchain",
            Self::Compile => "compile",
            Self::Test => "test",
            Self::Other => "other",
        };
        out.write_str(name)
    }
}

/// One entry: a pattern, what it means, lines that must match and lines that must not.
struct Entry {
    class: Class,
    name: &'static str,
    pattern: &'static str,
    #[cfg_attr(not(test), allow(dead_code))]
    examples: &'static [&'static str],
    #[cfg_attr(not(test), allow(dead_code))]
    counter: &'static [&'static str],
}

/// The catalogue; the first entry that matches names the class, so the more telling ones stand first.
const CATALOGUE: &[Entry] = &[
    Entry {
        class: Class::Dns,
        name: "name cannot be resolved",
        pattern: r"no such host\b|could not resolve (host|proxy)|name or service not known|temporary failure in name resolution|UnknownHostException|getaddrinfo|NXDOMAIN|EAI_AGAIN|\bENOTFOUND\b|name resolution|failed to lookup address|server misbehaving",
        examples: &[
            "dial tcp: lookup redis on 10.96.0.10:53: no such host",
            "curl: (6) Could not resolve host: registry.example.org",
            "java.net.UnknownHostException: payments",
            "Error: getaddrinfo EAI_AGAIN db",
        ],
        counter: &["resolved 14 dependencies", "no such hostage situation was found in the plot"],
    },
    Entry {
        class: Class::Tls,
        name: "certificate or handshake refused",
        pattern: r"x509:|certificate (has expired|signed by unknown|verify failed|is not (yet )?valid)|SSL(Error|HandshakeException|V3_ALERT)|tls: |TLS handshake|handshake failure|PKIX path|unable to get local issuer",
        examples: &[
            "x509: certificate signed by unknown authority",
            "javax.net.ssl.SSLHandshakeException: PKIX path building failed",
            "remote error: tls: bad certificate",
        ],
        counter: &["certificate renewed for api.example.org"],
    },
    Entry {
        class: Class::Database,
        name: "database refuses or fails",
        pattern: r"ORA-\d{5}|SQLSTATE|SQLException|SQLTransient|too many (connections|clients)|deadlock (detected|found)|(remaining )?connection slots are reserved|could not serialize access|Communications link failure|HikariPool.*(not available|timeout|exhaust)|read[- ]only (option|transaction)|pymysql\.err|psycopg2\.|MongoServer(Selection)?Error|Access denied for user|WRONGTYPE Operation|READONLY You can't write",
        examples: &[
            "ORA-01555: snapshot too old: rollback segment number 9 with name \"_SYSSMU9$\" too small",
            "FATAL: sorry, too many clients already",
            "com.mysql.cj.jdbc.exceptions.CommunicationsException: Communications link failure",
            "ERROR: deadlock detected",
            "Access denied for user 'app'@'10.1.2.3' (using password: YES)",
        ],
        counter: &["database migration finished", "ORA the explorer"],
    },
    Entry {
        class: Class::Memory,
        name: "out of memory",
        pattern: r"OutOfMemory(Error)?|OOMKilled|oom-kill|out of memory|cannot allocate memory|ENOMEM|JavaScript heap out of memory|std::bad_alloc|MemoryError|GC overhead limit|fatal error: runtime: out of memory|virtual memory exhausted",
        examples: &[
            "java.lang.OutOfMemoryError: Java heap space",
            "fork: Cannot allocate memory",
            "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory",
            "terminate called after throwing an instance of 'std::bad_alloc'",
        ],
        counter: &["memory usage 43 %", "loaded in-memory cache"],
    },
    Entry {
        class: Class::Disk,
        name: "disk full or broken",
        pattern: r"no space left on device|ENOSPC|disk (is )?full|disk quota exceeded|Input/output error|read-only file system|I/O error, dev|EXT4-fs error|failed to write .*: no space",
        examples: &[
            "write /var/lib/data: no space left on device",
            "cp: error writing 'x': No space left on device",
            "touch: cannot touch 'a': Read-only file system",
        ],
        counter: &["disk usage 71 %"],
    },
    Entry {
        class: Class::Quota,
        name: "quota or rate limit",
        pattern: r"exceeded quota|quota (was )?exceeded|rate limit(ed| exceeded)?|too many requests|\b429\b|toomanyrequests|RESOURCE_EXHAUSTED|LimitExceeded|Throttling(Exception)?",
        examples: &[
            "pods \"a\" is forbidden: exceeded quota: compute, requested: cpu=1",
            "toomanyrequests: You have reached your pull rate limit",
            "rpc error: code = ResourceExhausted desc = RESOURCE_EXHAUSTED",
        ],
        counter: &["listening on port 4290", "quota report written"],
    },
    Entry {
        class: Class::Permission,
        name: "not allowed",
        pattern: r"permission denied|EACCES|EPERM|access (is )?denied|operation not permitted|\b40[13] (forbidden|unauthorized)|unauthorized|authentication (failed|required)|not authorized|forbidden|invalid credentials|could not read Username|Permission to \S+ denied",
        examples: &[
            "open /data/lock: permission denied",
            "HTTP 403 Forbidden",
            "remote: Permission to acme/shop.git denied to bot",
            "npm ERR! code EACCES",
        ],
        counter: &["permissions loaded", "port 4031 open"],
    },
    Entry {
        class: Class::Dependency,
        name: "a package cannot be had",
        pattern: r"could not (find|resolve) (a version|artifact|dependenc|package|all files)|no matching (distribution|version|package)|npm ERR! (404|code E404|code ERESOLVE)|ERESOLVE|unable to resolve dependency|cannot find module '|ModuleNotFoundError|package \S+ is not in|missing go\.sum entry|no required module provides|failed to (download|fetch|select a version)|Could not transfer artifact|unmet dependenc|Unable to locate package|404 Not Found \[IP|Failed to fetch http|LoadError: cannot load such file|conflicting dependencies|version solving failed",
        examples: &[
            "ERROR: No matching distribution found for requests==99.0",
            "npm ERR! code ERESOLVE",
            "Could not resolve dependencies for project com.acme:shop:jar:1.0",
            "E: Unable to locate package libfoo-dev",
            "error: failed to select a version for `serde`",
            "ModuleNotFoundError: No module named 'yaml'",
        ],
        counter: &["dependencies are up to date", "resolved dependency tree in 3 s"],
    },
    Entry {
        class: Class::Toolchain,
        name: "a tool is missing or of the wrong version",
        pattern: r"command not found|: not found$|is not recognized as an internal|exec format error|executable file not found|unsupported (class file|engine)|UnsupportedClassVersionError|requires (node|python|go|java|ruby|php|rustc|cmake) |The engine .* is incompatible|unknown (compiler )?(option|flag)|unrecognized (command[- ]line )?option|No such (compiler|toolchain)|toolchain '.*' is not installed|invalid target release|glibc.*not found|GLIBC_\d|CMake \d.* or higher is required",
        examples: &[
            "bash: protoc: command not found",
            "sh: 1: tsc: not found",
            "exec: \"docker-buildx\": executable file not found in $PATH",
            "gcc: error: unrecognized command line option '-std=c++20'",
            "java.lang.UnsupportedClassVersionError: A has been compiled by a more recent version",
            "CMake 3.20 or higher is required.  You are running version 3.10",
        ],
        counter: &["found compiler gcc 12"],
    },
    Entry {
        class: Class::Configuration,
        name: "configuration missing or wrong",
        pattern: r"(missing|required|undefined|unset|no) (required )?(environment|env) (variable|var)|environment variable \S+ (is |was |must be )?(not set|required|missing|undefined)|(invalid|bad|wrong|unknown|unsupported|malformed) (config|configuration|setting|option|value for|property|yaml|json)|config(uration)? (file )?(\S+ )?(not found|is invalid|error|missing|could not be (read|parsed|loaded))|failed to (load|parse|read) (the )?(\S+ )?config|could not resolve placeholder|KeyError: '[A-Z_]{3,}'|yaml: |must be set|is not configured|no such (setting|property)|unmarshal",
        examples: &[
            "panic: environment variable DB_URL is not set",
            "invalid value for \"timeout\": expected a duration",
            "failed to parse config: yaml: line 3: mapping values are not allowed",
            "java.lang.IllegalArgumentException: Could not resolve placeholder 'db.url' in value",
            "KeyError: 'DATABASE_URL'",
        ],
        counter: &["configuration loaded from /etc/app.yaml"],
    },
    Entry {
        class: Class::Timeout,
        name: "something took too long",
        pattern: r"timed? ?out|ETIMEDOUT|deadline exceeded|TimeoutE(xception|rror)|SocketTimeout|no output has been received in the last|took longer than|exceeded the maximum time limit",
        examples: &[
            "context deadline exceeded",
            "java.net.SocketTimeoutException: Read timed out",
            "No output has been received in the last 10m0s, this potentially indicates a stalled build",
            "Error: connect ETIMEDOUT 10.0.0.1:443",
        ],
        counter: &["timer fired", "time: 12 s"],
    },
    Entry {
        class: Class::Network,
        name: "a connection failed",
        pattern: r"connection (refused|reset|closed|aborted|was closed)|ECONNREFUSED|ECONNRESET|EPIPE|broken pipe|network is unreachable|no route to host|unexpected EOF|socket hang up|failed to connect|upstream connect error|connect error|transport is closing|code = Unavailable|EHOSTUNREACH|RPC failed; curl|The remote end hung up|503 Service Unavailable|502 Bad Gateway",
        examples: &[
            "dial tcp 10.1.2.3:5432: connect: connection refused",
            "Error: socket hang up",
            "rpc error: code = Unavailable desc = transport is closing",
            "fatal: The remote end hung up unexpectedly",
        ],
        counter: &["connected to 10.1.2.3", "connection pool ready"],
    },
    Entry {
        class: Class::Test,
        name: "a test failed",
        pattern: r"--- FAIL|^FAIL\b|^not ok \d|\btests? failed\b|[1-9]\d* (tests? )?(failed|failures?|failing)\b|Failures?: [1-9]|Errors?: [1-9]\d*,|AssertionError|assertion (failed|`)|ComparisonFailure|panicked at .*assert|✗|✘|● .* ›|There (was|were) \d+ (failure|error)s?|FAILURES!|Expected .* (but|to) |MockitoException",
        examples: &[
            "--- FAIL: TestCheckout (0.00s)",
            "Tests run: 12, Failures: 2, Errors: 0, Skipped: 0",
            "E   AssertionError: assert 3 == 4",
            "not ok 14 - adds two numbers",
            "There were 2 failures:",
            "test result: FAILED. 10 passed; 1 failed; 0 ignored",
        ],
        counter: &["Tests run: 12, Failures: 0, Errors: 0", "all tests passed", "0 failed"],
    },
    Entry {
        class: Class::Compile,
        name: "the code does not compile",
        pattern: r"error(\[E\d{4}\]|: cannot find| TS\d+| CS\d+| C\d{4})|cannot find symbol|undefined (reference|symbol|variable|method)|undeclared|syntax ?error|SyntaxError|parse error|expected ['`‘;)}{]|COMPILATION ERROR|compilation failed|does not compile|type mismatch|cannot be resolved|mismatched types|implicit declaration|fatal error: .*: No such file|undefined: \w+|ld returned \d|linker command failed|collect2: error|:\d+:\d+: (fatal )?error:|\.\w+:\d+: error:",
        examples: &[
            "error[E0308]: mismatched types",
            "main.c:3:10: fatal error: foo.h: No such file or directory",
            "[ERROR] COMPILATION ERROR :",
            "src/a.ts(3,5): error TS2322: Type 'string' is not assignable",
            "./main.go:12:5: undefined: Foo",
            "collect2: error: ld returned 1 exit status",
        ],
        counter: &["compiled 12 files", "0 errors"],
    },
];

static SET: LazyLock<Option<RegexSet>> = LazyLock::new(|| {
    RegexSetBuilder::new(CATALOGUE.iter().map(|entry| entry.pattern))
        .case_insensitive(true)
        .size_limit(64 << 20)
        .build()
        .ok()
});

/// What a cleaned line speaks of.
pub fn classify(line: &str) -> Class {
    entry(line).map_or(Class::Other, |entry| entry.class)
}

/// The catalogue's name of the trouble in a line.
pub fn meaning(line: &str) -> Option<&'static str> {
    entry(line).map(|entry| entry.name)
}

/// Bytes of a line that are looked at: what went wrong stands at its front, and a dump of megabytes must not cost seconds.
const LINE_MAX: usize = 4096;

/// The part of a line that is looked at.
pub fn front(line: &str) -> &str {
    &line[..line.floor_char_boundary(LINE_MAX)]
}

fn entry(line: &str) -> Option<&'static Entry> {
    let index = SET.as_ref()?.matches(front(line)).iter().next()?;
    CATALOGUE.get(index)
}

static TARGET: LazyLock<Option<Regex>> = LazyLock::new(|| {
    RegexBuilder::new(
        r"(?:lookup |resolve host:? |UnknownHostException: |getaddrinfo \w+ |dial tcp:? (?:lookup )?|connect(?:ion)? (?:to |refused:? )|reach |calling |ECONNREFUSED |ETIMEDOUT |https?://|jdbc:\w+://)([a-z0-9][a-z0-9.-]*[a-z0-9])",
    )
    .case_insensitive(true)
    .build()
    .ok()
});

/// The host or service that a line of failed communication names.
pub fn callee(line: &str) -> Option<&str> {
    TARGET.as_ref()?.captures(front(line))?.get(1).map(|found| found.as_str())
}

static IN_VAIN: LazyLock<Option<Regex>> = LazyLock::new(|| {
    RegexBuilder::new(
        r"i/o timeout|timed ?out|deadline exceeded|ETIMEDOUT|SocketTimeout|upstream request timeout|connection reset|ECONNRESET|no route to host|EHOSTUNREACH|network is unreachable",
    )
    .case_insensitive(true)
    .build()
    .ok()
});

static CALLED: LazyLock<Option<Regex>> = LazyLock::new(|| {
    RegexBuilder::new(
        r#"(?:\bcalls? to |\brequests? to |\bupstream[=:] ?"?|\bpeer(?:\.service)?[=:] ?"?|\bserver\.address[=:] ?"?)([a-z0-9][a-z0-9.-]*[a-z0-9])"#,
    )
    .case_insensitive(true)
    .build()
    .ok()
});

/// The callee that a line says did not answer in time or dropped the connection.
///
/// A refusal is an answer: it comes from a host that is reached, and says that nothing listens there.
pub fn waited_for(line: &str) -> Option<&str> {
    let line = front(line);
    IN_VAIN.as_ref().filter(|pattern| pattern.is_match(line))?;
    let called = CALLED.as_ref()?.captures(line).and_then(|found| found.get(1)).map(|found| found.as_str());
    called.or_else(|| callee(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_front_of_a_line_is_looked_at() {
        let long = format!("{}connection refused", "é".repeat(LINE_MAX));
        assert_eq!(classify(&long), Class::Other);
        assert_eq!(classify(&format!("connection refused {long}")), Class::Network);
    }

    #[test]
    fn the_catalogue_compiles() {
        assert!(SET.is_some());
        assert!(TARGET.is_some() && IN_VAIN.is_some() && CALLED.is_some());
    }

    #[test]
    fn every_entry_matches_its_examples_and_not_its_counter_examples() {
        let mut wrong = Vec::new();
        for entry in CATALOGUE {
            let examples = entry.examples.iter().filter(|line| classify(line) != entry.class);
            let counter = entry.counter.iter().filter(|line| classify(line) == entry.class);
            wrong.extend(examples.chain(counter).map(|line| format!("{} {line} -> {}", entry.name, classify(line))));
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn the_callee_is_read_from_the_text() {
        assert_eq!(callee("dial tcp: lookup redis on 10.96.0.10:53: no such host"), Some("redis"));
        assert_eq!(callee("Get \"http://payments:8080/pay\": connection refused"), Some("payments"));
        assert_eq!(callee("nothing here"), None);
    }

    #[test]
    fn who_was_waited_for_in_vain_is_read_from_the_text() {
        for (line, named) in [
            (
                "level=error msg=\"POST /checkout failed\" error=\"call to payment failed: i/o timeout\" upstream=payment",
                Some("payment"),
            ),
            ("Post \"http://payment.shop.svc:8080/pay\": context deadline exceeded", Some("payment.shop.svc")),
            ("read tcp 10.0.0.1:4312: connection reset by peer peer.service=payment", Some("payment")),
            ("call to payment failed: 503 Service Unavailable", None),
            ("dial tcp: connect to payment: connection refused", None),
            ("pool - Connection is not available, request timed out after 30000ms", None),
        ] {
            assert_eq!(waited_for(line), named, "{line}");
        }
    }
}
