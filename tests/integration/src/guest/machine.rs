//! The machines that are emulated, and in what they are different.

/// An architecture to emulate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// A PC.
    X86_64,
    /// QEMU's `virt`.
    Arm64,
}

/// What the names of kernels and of folders in the cache end in that are for arm64.
const ARM64: &str = "-arm64";

impl Machine {
    /// The machine that a kernel is for, by its name: `6.1`, `6.12-arm64`.
    #[must_use]
    pub fn of(kernel: &str) -> Self {
        if kernel.ends_with(ARM64) {
            Self::Arm64
        } else {
            Self::X86_64
        }
    }

    /// The kernel's line, its name without flavour and machine.
    #[must_use]
    pub fn line(kernel: &str) -> &str {
        kernel.split_once('-').map_or(kernel, |(line, _)| line)
    }

    /// What the names of its folders in the cache end in.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::X86_64 => "",
            Self::Arm64 => ARM64,
        }
    }

    /// Whether its programs run on this machine, too.
    #[must_use]
    pub fn is_this_one(self) -> bool {
        match self {
            Self::X86_64 => cfg!(target_arch = "x86_64"),
            Self::Arm64 => cfg!(target_arch = "aarch64"),
        }
    }

    /// What QEMU is told of it.
    #[must_use]
    pub fn hardware(self) -> [&'static str; 4] {
        match self {
            Self::X86_64 => ["-machine", "pc", "-cpu", "Nehalem"],
            Self::Arm64 => ["-machine", "virt", "-cpu", "cortex-a72"],
        }
    }

    /// The three serial ports, as [`super::protocol`] numbers them: the console, the output, the reports. The `virt`
    /// machine has only the first.
    #[must_use]
    pub fn ports(self) -> &'static [&'static str] {
        match self {
            Self::X86_64 => &[
                "-serial",
                "chardev:console",
                "-serial",
                "chardev:output",
                "-serial",
                "chardev:reports",
            ],
            Self::Arm64 => &[
                "-serial",
                "chardev:console",
                "-device",
                "pci-serial-2x,chardev1=output,chardev2=reports",
            ],
        }
    }

    /// What its kernel is told where nothing is measured (`--icount` leaves it as users have it). Page tables of the
    /// kernel's own (against Meltdown) empty QEMU's translation cache twice a system call, and a suite takes twice as long.
    /// A time-stamp counter that looks unsteady on a busy machine would be given up for a clock that is slow to read.
    #[must_use]
    pub fn shortcuts(self) -> &'static str {
        match self {
            Self::X86_64 => "mitigations=off tsc=reliable",
            Self::Arm64 => "mitigations=off",
        }
    }

    /// What the kernel calls the first of them.
    #[must_use]
    pub fn console(self) -> &'static str {
        match self {
            Self::X86_64 => "ttyS0",
            Self::Arm64 => "ttyAMA0",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Machine;

    #[test]
    fn a_kernels_name_tells_its_machine() {
        for (name, machine, line) in [
            ("6.1", Machine::X86_64, "6.1"),
            ("6.12-arm64", Machine::Arm64, "6.12"),
            ("6.12-rt", Machine::X86_64, "6.12"),
        ] {
            assert_eq!((Machine::of(name), Machine::line(name)), (machine, line));
        }
    }
}
