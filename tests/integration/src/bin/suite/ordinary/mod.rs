//! No collateral harm: what people run on their machines works as ever, beside sealed programs and sealed itself.
//!
//! Each case is a script that runs programs and prints what came of it. It is run three times: where nothing of
//! kernelseal is loaded, beside sealed programs, and with its own program bound. It must print the same, but for the secret.

mod case;
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

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    let beside = |registry: Registry, name, case: &'static Case| {
        registry.slow_test(format!("ordinary::{name}_beside"), LIMIT, || case.beside())
    };
    let both = |registry: Registry, name, case: &'static Case| {
        beside(registry, name, case)
            .slow_test(format!("ordinary::{name}_sealed"), LIMIT, || case.sealed())
    };
    let registry = both(registry, "shell", &SHELL);
    let registry = beside(registry, "debuggers", &DEBUGGERS);
    let registry = beside(registry, "packages", &PACKAGES);
    let registry = both(registry, "compiler", &COMPILER);
    let registry = both(registry, "nginx", &NGINX);
    let registry = both(registry, "postgres", &POSTGRES);
    let registry = both(registry, "redis", &REDIS);
    let registry = both(registry, "node", &NODE);
    let registry = both(registry, "python", &PYTHON);
    let registry = both(registry, "go", &GO);
    let registry = both(registry, "java", &JAVA);
    terminals::register(listing::register(registry))
}
