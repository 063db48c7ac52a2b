use super::*;

#[test]
fn names_for_what_has_one() {
    assert_eq!(OPEN_FLAGS.text(0), "O_RDONLY");
    let value = libc::O_WRONLY | libc::O_CREAT | libc::O_CLOEXEC;
    assert_eq!(
        OPEN_FLAGS.text(u64::try_from(value).unwrap()),
        "O_WRONLY|O_CREAT|O_CLOEXEC"
    );
    assert_eq!(PROTECTION.text(0), "0");
    assert_eq!(PROTECTION.text(0x105), "PROT_READ|PROT_EXEC|0x100");
    // (negative in C)
    assert_eq!(CLONE_FLAGS.text(0x8000_0011), "SIGCHLD|CLONE_IO");
    assert_eq!(
        CLONE3_FLAGS.text(0x2_0000_0180),
        "CLONE_NEWTIME|CLONE_VM|CLONE_INTO_CGROUP"
    );
    assert_eq!(HOW_FLAGS.text(1 << 40), "O_RDONLY|0x10000000000");
    assert_eq!(WHENCE.text(1), "SEEK_CUR");
    assert_eq!(WHENCE.text(99), "0x63");
    assert_eq!(
        SOCKET_TYPES.text(2 | 0o2_000_000),
        "SOCK_DGRAM|SOCK_CLOEXEC"
    );
    assert_eq!(
        OPEN_FLAGS.text(u64::try_from(libc::O_TMPFILE | libc::O_RDWR).unwrap()),
        "O_RDWR|O_TMPFILE"
    );
}

/// What a flag of several bits is made of comes after it.
#[test]
fn the_larger_come_first() {
    for bits in [&OPEN_FLAGS, &MOUNT_FLAGS, &CLONE_FLAGS, &MAP_FLAGS] {
        for (at, (later, name)) in bits.flags.iter().enumerate() {
            for (earlier, _) in &bits.flags[..at] {
                assert!(later & earlier != *earlier || later == earlier, "{name}");
            }
        }
    }
}
