//! Configurations for the agent, put together by a test.

use std::fmt;

use serde_json::{Value, json};

/// A configuration. It is written as JSON, which is YAML too.
#[derive(Clone, Debug)]
pub struct Config {
    policy: Value,
    bindings: Vec<Value>,
    monitoring: Value,
    secrets_dir: Option<String>,
}

impl Config {
    /// One binding, for the programs of that name or path. Nothing is served over HTTP, so that
    /// any number of agents fit on a machine.
    #[must_use]
    pub fn seal(binary: &str) -> Self {
        let config = Self {
            policy: json!({}),
            bindings: Vec::new(),
            monitoring: json!({"enabled": false}),
            secrets_dir: None,
        };
        config.and_seal(binary)
    }

    /// The usual one: the program gets a secret `TOKEN` that is `hunter2`.
    #[must_use]
    pub fn token_for(binary: &str) -> Self {
        Self::seal(binary).value("TOKEN", "hunter2")
    }

    /// One binding more; what is said from here on is about it.
    #[must_use]
    pub fn and_seal(mut self, binary: &str) -> Self {
        let name = format!("binding-{}", self.bindings.len());
        self.bindings.push(json!({
            "name": name,
            // (tests put their programs where they like)
            "selector": {"binary": binary, "provenance": "any"},
            "secretRefs": [],
        }));
        self
    }

    /// A field of the selector.
    #[must_use]
    pub fn selector(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.binding()["selector"][key] = value.into();
        self
    }

    /// Without a field of the selector.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        if let Some(selector) = self.binding()["selector"].as_object_mut() {
            selector.remove(key);
        }
        self
    }

    /// A key of the binding.
    #[must_use]
    pub fn binding_key(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.binding()[key] = value.into();
        self
    }

    /// How the secrets reach the program.
    #[must_use]
    pub fn delivery(mut self, ways: &[&str]) -> Self {
        self.binding()["delivery"] = json!(ways);
        self
    }

    /// One secret more, from a source such as `json!({"envRef": "NAME"})`.
    #[must_use]
    pub fn secret(mut self, name: &str, source: impl Into<Value>) -> Self {
        let secret = json!({"name": name, "source": source.into()});
        if let Some(list) = self.binding()["secretRefs"].as_array_mut() {
            list.push(secret);
        }
        self
    }

    /// One secret more, by its value.
    #[must_use]
    pub fn value(self, name: &str, value: &str) -> Self {
        self.secret(name, json!({"value": value}))
    }

    /// A key of the policy.
    #[must_use]
    pub fn policy(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.policy[key] = value.into();
        self
    }

    /// A key of the monitoring.
    #[must_use]
    pub fn monitoring(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.monitoring[key] = value.into();
        self
    }

    /// Where mounted Kubernetes Secrets are.
    #[must_use]
    pub fn secrets_dir(mut self, path: impl Into<String>) -> Self {
        self.secrets_dir = Some(path.into());
        self
    }

    fn binding(&mut self) -> &mut Value {
        self.bindings
            .last_mut()
            .expect("a configuration begins with a binding")
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut whole = json!({
            "version": "v1",
            "policy": self.policy,
            "secrets": self.bindings,
            "monitoring": self.monitoring,
        });
        if let Some(path) = &self.secrets_dir {
            whole["secretsDir"] = json!(path);
        }
        write!(f, "{whole:#}")
    }
}
