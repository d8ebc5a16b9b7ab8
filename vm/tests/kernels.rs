//! Kernels come from Debian's own packages, and the second time from the cache.
#![allow(clippy::unwrap_used)] // Helpers of tests, where it is fine.

use vm::{Kernel, KernelChoice, Progress, Silent};

/// Lets nothing be fetched.
struct Refuse;

impl Progress for Refuse {
    fn step(&mut self, text: &str) {
        panic!("the cache was not used: {text}");
    }
}

fn resolve(choice: &str) -> Kernel {
    Kernel::resolve(&choice.parse::<KernelChoice>().unwrap(), &mut Silent).unwrap()
}

#[test]
fn debian_kernels_are_fetched_once() {
    for (choice, series) in [("default", "7."), ("6.1", "6.1."), ("6.12", "6.12.")] {
        let kernel = resolve(choice);
        assert!(kernel.release.starts_with(series), "{kernel:?}");
        assert!(kernel.release.ends_with("-cloud-amd64"), "{kernel:?}");
        assert!(kernel.modules.join("kernel/net").is_dir(), "{kernel:?}");
        let again = Kernel::resolve(&choice.parse().unwrap(), &mut Refuse).unwrap();
        assert_eq!(again, kernel);
        // The image says the same release as the package's name.
        let path = KernelChoice::Path {
            vmlinuz: kernel.vmlinuz.clone(),
            modules: Some(kernel.modules.clone()),
        };
        assert_eq!(
            Kernel::resolve(&path, &mut Silent).unwrap().release,
            kernel.release
        );
    }
}

#[test]
fn what_is_no_kernel_is_said_in_one_sentence() {
    let choice = KernelChoice::Path {
        vmlinuz: "/etc/passwd".into(),
        modules: None,
    };
    let error = Kernel::resolve(&choice, &mut Silent)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("bzImage") && !error.contains('\n'),
        "{error}"
    );
    let error = Kernel::resolve(&"9.99".parse().unwrap(), &mut Silent)
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("there is no kernel `9.99`"), "{error}");
}

#[test]
fn packages_come_with_their_libraries() {
    let root = vm::kernels::debs(
        &["busybox-static", "nftables"],
        vm::kernels::Suite::Trixie,
        &mut Silent,
    )
    .unwrap();
    assert!(root.join("usr/sbin/nft").is_file());
    assert!(
        root.join("usr/lib/x86_64-linux-gnu/libnftables.so.1")
            .exists()
    );
}
