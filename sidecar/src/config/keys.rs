//! Which keys there are, at which level, and which one somebody probably meant.

/// A mapping in the file.
#[derive(Debug)]
pub(super) struct Level {
    /// What messages call it: `unknown key "x" in policy`.
    pub(super) name: &'static str,
    /// The key it stands under.
    key: &'static str,
    /// Its keys, in the order of the documentation.
    pub(super) keys: &'static [&'static str],
    /// The mappings below it.
    below: &'static [&'static Level],
    /// Whether a key we do not know may be a secret somebody put in the wrong place.
    pub(super) hides_keys: bool,
}

impl Level {
    const fn new(name: &'static str, keys: &'static [&'static str]) -> Self {
        Self {
            name,
            key: name,
            keys,
            below: &[],
            hides_keys: false,
        }
    }
}

pub(super) static TOP: Level = Level {
    name: "the top level",
    key: "",
    keys: &[
        "version",
        "policy",
        "secrets",
        "monitoring",
        "secretsDir",
        "vault",
    ],
    below: &[&POLICY, &MONITORING, &BINDING, &VAULT],
    hides_keys: false,
};
pub(super) static POLICY: Level = Level::new(
    "policy",
    &[
        "mode",
        "blockEnviron",
        "blockMem",
        "blockMaps",
        "blockPtrace",
        "allowSelfRead",
        "auditAll",
        "kernelBinaryFilter",
        "onFailure",
        "holdTimeout",
    ],
);
pub(super) static MONITORING: Level = Level {
    below: &[&NETWORK, &SYSCALLS],
    ..Level::new(
        "monitoring",
        &[
            "enabled",
            "metricsPort",
            "logLevel",
            "logFormat",
            "auditLog",
            "network",
            "syscalls",
        ],
    )
};
pub(super) static NETWORK: Level = Level::new(
    "network",
    &[
        "enabled",
        "protocols",
        "direction",
        "ports",
        "cidrs",
        "containers",
    ],
);
pub(super) static SYSCALLS: Level = Level::new(
    "syscalls",
    &[
        "enabled",
        "categories",
        "names",
        "containers",
        "uids",
        "failed",
        "ratePerSecond",
        "objects",
    ],
);
pub(super) static BINDING: Level = Level {
    name: "secrets[]",
    key: "secrets",
    keys: &[
        "name",
        "selector",
        "delivery",
        "file",
        "allowVariables",
        "onRotate",
        "secretRefs",
    ],
    below: &[&SELECTOR, &FILE, &ON_ROTATE, &SECRET_REF],
    hides_keys: false,
};
pub(super) static SELECTOR: Level = Level::new(
    "selector",
    &[
        "binary",
        "sha256",
        "provenance",
        "container",
        "namespace",
        "labels",
        "cgroupPath",
        "uid",
    ],
);
pub(super) static FILE: Level = Level::new("file", &["mode", "uid", "gid"]);
pub(super) static ON_ROTATE: Level = Level::new("onRotate", &["signal"]);
pub(super) static SECRET_REF: Level = Level {
    name: "secretRefs[]",
    key: "secretRefs",
    keys: &["name", "source"],
    below: &[&SOURCE],
    hides_keys: true,
};
pub(super) static SOURCE: Level = Level {
    name: "source",
    key: "source",
    keys: &["secretKeyRef", "fileRef", "envRef", "value", "vaultRef"],
    below: &[&SECRET_KEY_REF, &FILE_REF, &VAULT_REF],
    hides_keys: true,
};
pub(super) static SECRET_KEY_REF: Level = Level {
    hides_keys: true,
    ..Level::new("secretKeyRef", &["name", "key", "namespace", "optional"])
};
pub(super) static FILE_REF: Level = Level {
    hides_keys: true,
    ..Level::new("fileRef", &["path", "trim"])
};
pub(super) static VAULT_REF: Level = Level {
    hides_keys: true,
    ..Level::new("vaultRef", &["path", "key"])
};

pub(super) static VAULT: Level = Level {
    below: &[&VAULT_AUTH],
    ..Level::new("vault", &["address", "caFile", "namespace", "auth"])
};
pub(super) static VAULT_AUTH: Level = Level {
    below: &[&VAULT_KUBERNETES],
    hides_keys: true,
    ..Level::new("auth", &["tokenFile", "kubernetes"])
};
pub(super) static VAULT_KUBERNETES: Level = Level {
    hides_keys: true,
    ..Level::new("kubernetes", &["role", "mount", "tokenFile"])
};

/// Every level, from the top down.
pub(super) static LEVELS: [&Level; 16] = [
    &TOP,
    &POLICY,
    &MONITORING,
    &NETWORK,
    &SYSCALLS,
    &BINDING,
    &SELECTOR,
    &ON_ROTATE,
    &SECRET_REF,
    &SOURCE,
    &SECRET_KEY_REF,
    &FILE_REF,
    &VAULT_REF,
    &VAULT,
    &VAULT_AUTH,
    &VAULT_KUBERNETES,
];

/// What somebody probably meant by a key that is not known at its level.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meant {
    /// A key of this level, misspelt.
    Here(&'static str),
    /// The same key, which belongs under the level of this name.
    Under(&'static str),
    /// No idea.
    Unknown,
}

impl Level {
    /// The mapping, or list of mappings, that belongs below one of this level's keys.
    pub(super) fn child(&self, key: &str) -> Option<&'static Level> {
        self.below.iter().copied().find(|level| level.key == key)
    }

    /// What `key` was probably meant to be, here.
    pub(super) fn meant(&self, key: &str) -> Meant {
        let mut others = self.below.iter().chain(LEVELS.iter());
        if let Some(level) = others.find(|level| level.keys.contains(&key)) {
            return Meant::Under(level.name);
        }
        nearest(key, self.keys).map_or(Meant::Unknown, Meant::Here)
    }
}

/// The candidate most like `word`, if any is like it at all.
pub(super) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    // A long word is like none of ours, and comparing it would take long.
    if word.len() > 64 {
        return None;
    }
    let word = fold(word);
    candidates
        .iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&word, &fold(candidate)),
                *candidate,
            )
        })
        .filter(|(distance, candidate)| *distance <= 1.max(candidate.len() / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `block_environ`, `block-environ` and `BlockEnviron` are all the same mistake.
fn fold(word: &str) -> String {
    word.chars()
        .filter(|c| !matches!(c, '_' | '-'))
        .flat_map(char::to_lowercase)
        .collect()
}

/// Whether a mapping is expected below this key, or a list of them: text there is out of place.
pub(super) fn holds_more_keys(key: &str) -> bool {
    // `fileRef` takes a path, too, and `onRotate` a word.
    key != FILE_REF.key && key != ON_ROTATE.key && LEVELS.iter().any(|level| level.key == key)
}

/// Whether `key` is a key at any level.
pub(super) fn is_key(key: &str) -> bool {
    LEVELS.iter().any(|level| level.keys.contains(&key))
}
