//! Random arguments, variables and secrets, the unpleasant ones among them; the same for the same seed.

/// Bytes that one string may have, with its NUL (the kernel's `MAX_ARG_STRLEN`).
pub const MAX_STRING: usize = 32 * 4096;
/// Names that secrets and variables share, so that they often collide.
const NAMES: [&str; 12] = [
    "A", "AA", "AB", "B", "_", "a", "PATH", "TOKEN", "TOKEN_", "TOKEN_2", "LANG", "X9",
];

/// Numbers (`SplitMix64`).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of `0..limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap_or_default()
    }

    fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.below(from.len())]
    }

    /// Any bytes but NUL: letters, all, or few of them that matter.
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let alphabet: Vec<u8> = match self.below(3) {
            0 => (b'a'..=b'z').collect(),
            1 => (1..=255).collect(),
            _ => b"=\n\xff\xc3\"\\ A".to_vec(),
        };
        (0..length).map(|_| *self.pick(&alphabet)).collect()
    }

    fn name(&mut self) -> Vec<u8> {
        self.pick(&NAMES).as_bytes().to_vec()
    }

    /// A variable, or what a careless parent passes as one.
    fn variable(&mut self, length: usize) -> Vec<u8> {
        let length = self.below(length + 1);
        let value = self.bytes(length);
        match self.below(10) {
            0 => value,
            1 => self.name(),
            2 => [b"=", &*value].concat(),
            3 => [&*self.name(), b"==", &*value].concat(),
            4 => Vec::new(),
            _ => [&*self.name(), b"=", &*value].concat(),
        }
    }
}

/// A secret's name and value.
pub type Secret = (String, Vec<u8>);

/// The secrets of a binding.
pub fn secrets(random: &mut Random) -> Vec<Secret> {
    let mut secrets: Vec<Secret> = Vec::new();
    let (count, longest) = match random.below(10) {
        0 => (150, 8),
        1 => (1 + random.below(3), MAX_STRING - 64),
        _ => (1 + random.below(6), 80),
    };
    while secrets.len() < count {
        let name = match random.below(3) {
            0 => format!("S{}", random.below(1000)),
            _ => (*random.pick(&NAMES)).to_owned(),
        };
        if secrets.iter().all(|(known, _)| *known != name) {
            let length = random.below(longest + 1);
            secrets.push((name, random.bytes(length)));
        }
    }
    secrets
}

/// What a program is executed with.
pub struct Case {
    pub arguments: Vec<Vec<u8>>,
    pub variables: Vec<Vec<u8>>,
    /// Bytes that its stack may grow to.
    pub stack_limit: u64,
    /// Whether addresses are the same at every start.
    pub is_fixed: bool,
}

impl Case {
    pub fn new(random: &mut Random) -> Self {
        let mut case = Self {
            arguments: Vec::new(),
            variables: Vec::new(),
            stack_limit: *random.pick(&[8 << 20, 8 << 20, 1 << 20, 64 << 20, u64::MAX]),
            is_fixed: random.below(2) == 0,
        };
        let (arguments, variables, longest) = match random.below(12) {
            // none at all; without a name of its own, too
            0 => (0, random.below(3), 20),
            // many
            1 => (random.below(3_000), random.below(2_000), 3),
            // large
            2 => (random.below(5), random.below(8), MAX_STRING - 64),
            // near what the kernel allows, and now and then beyond
            3 => {
                case.fill(random);
                return case;
            }
            _ => (1 + random.below(8), random.below(30), 60),
        };
        for _ in 0..arguments {
            let length = random.below(longest + 1);
            case.arguments.push(random.bytes(length));
        }
        for _ in 0..variables {
            let variable = random.variable(longest);
            case.variables.push(variable);
        }
        case
    }

    /// Arguments and variables up to about the limit.
    fn fill(&mut self, random: &mut Random) {
        let mut room = usize::try_from(limit(self.stack_limit)).unwrap_or(usize::MAX);
        while room > MAX_STRING {
            let length = MAX_STRING / 2 + random.below(MAX_STRING / 2 - 64);
            room = room.saturating_sub(length + size_of::<u64>());
            let bytes = vec![b'a'; length];
            if random.below(2) == 0 {
                self.arguments.push(bytes);
            } else {
                self.variables.push([b"A=", &*bytes].concat());
            }
        }
        self.arguments
            .push(vec![b'b'; random.below(MAX_STRING - 64)]);
    }
}

/// Bytes that arguments and variables may have together (`bprm_stack_limits`).
pub fn limit(stack_limit: u64) -> u64 {
    const LEAST: u64 = 128 << 10;
    const MOST: u64 = 6 << 20;
    (stack_limit / 4).clamp(LEAST, MOST)
}
