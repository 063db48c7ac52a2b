//! No collateral harm: what people run on their machines works as ever, beside sealed programs and sealed itself.
//!
//! Each case is a script that runs programs and prints what came of it. It is run three times: where nothing of
//! kernelseal is loaded, beside sealed programs, and with its own program bound. It must print the same, but for the secret.

mod case;
mod launchers;
mod listing;
mod terminals;

use kernelseal_integration::config::Config;
use kernelseal_integration::registry::Registry;

use case::{Case, LIMIT};

const VALUE: &str = "hunter2";
const BOTH: &[&str] = &["variable: hunter2", "file: hunter2"];

static SHELL: Case =
    Case::new(include_str!("scripts/shell.sh")).bound(|| Config::token_for("/usr/bin/bash"), BOTH);
static DEBUGGERS: Case = Case::new(include_str!("scripts/debuggers.sh"));
static PACKAGES: Case = Case::new(include_str!("scripts/packages.sh"));
static COMPILER: Case =
    Case::new(include_str!("scripts/compiler.sh")).bound(|| Config::token_for("checked"), BOTH);
static NGINX: Case = Case::new(include_str!("scripts/nginx.sh")).bound(
    || {
        Config::seal("/usr/sbin/nginx")
            .value("TZ", "ABC-3")
            .value("SNIPPET", "set $found hunter2;")
    },
    &["variable: +0300", "file: hunter2"],
);
static POSTGRES: Case = Case::new(include_str!("scripts/postgres.sh")).bound(
    || Config::token_for("/usr/lib/postgresql/15/bin/postgres"),
    BOTH,
);
static REDIS: Case = Case::new(include_str!("scripts/redis.sh")).bound(
    || {
        Config::seal("redis-server")
            .value("MALLOC_CONF", "narenas:3")
            .value("CONF", "requirepass hunter2\n")
    },
    &["variable: opt.narenas: 3", "file: hunter2"],
);
static NODE: Case =
    Case::new(include_str!("scripts/node.sh")).bound(|| Config::token_for("node"), BOTH);
static PYTHON: Case =
    Case::new(include_str!("scripts/python.sh")).bound(|| Config::token_for("python3"), BOTH);
static GO: Case =
    Case::new(include_str!("scripts/go.sh")).bound(|| Config::token_for("serve-go"), BOTH);
static JAVA: Case =
    Case::new(include_str!("scripts/java.sh")).bound(|| Config::token_for("java"), BOTH);

static LAUNCHERS: Case = Case::new(concat!(
    include_str!("scripts/launched.sh"),
    include_str!("scripts/launchers.sh")
))
.bound(
    || Config::token_for("launched").policy("holdTimeout", "1m"),
    &["variable: hunter2"],
);

/// The cases by name.
static CASES: [(&str, &Case); 12] = [
    ("launchers", &LAUNCHERS),
    ("shell", &SHELL),
    ("debuggers", &DEBUGGERS),
    ("packages", &PACKAGES),
    ("compiler", &COMPILER),
    ("nginx", &NGINX),
    ("postgres", &POSTGRES),
    ("redis", &REDIS),
    ("node", &NODE),
    ("python", &PYTHON),
    ("go", &GO),
    ("java", &JAVA),
];

/// Adds this module's tests. Where nothing of kernelseal is loaded, all cases run first: it is loaded once for the others.
pub fn register(mut registry: Registry) -> Registry {
    for (name, case) in CASES {
        let name = format!("ordinary::{name}_alone");
        registry = registry.slow_test(name, LIMIT, || case.alone().map(drop));
    }
    for (name, case) in CASES {
        let of = |way| format!("ordinary::{name}_{way}");
        registry = registry.slow_test(of("beside"), LIMIT, || case.beside());
        if case.is_bound() {
            registry = registry.slow_test(of("sealed"), LIMIT, || case.sealed());
        }
    }
    launchers::register(terminals::register(listing::register(registry)))
}
