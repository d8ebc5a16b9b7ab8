//! Every reader of `probes` against the guest's own `/proc`, read by the agent, in real guests.
//!
//! Each test has a fresh copy of the ready guest with a crowd of processes in it. A paused guest's agent cannot answer,
//! so each comparison is a sandwich: the agent reads, the guest is paused and its memory is read, the agent reads again.
//! Where both readings of the agent agree, memory must agree with them; what was compared is counted, and too little
//! is a failure.
#![allow(clippy::unwrap_used, clippy::expect_used)]

// Every file of this folder; what is a folder by itself is named.
automod::dir!("tests/live");
mod hooks;
mod hostile;
mod memory;
mod sources;
mod ways;

/// The kernel of the tests in `default`: another one where the matrix of kernels is run (`cargo xtask test matrix`).
fn kernel() -> String {
    std::env::var("KLAB_TEST_KERNEL").unwrap_or_else(|_| "default".to_owned())
}

/// Tests on each kernel, made in the file that has them: `on_kernels!(keys_are_those_of_proc_keys)` makes
/// `default::keys_are_those_of_proc_keys`, `v6_1::..`, `v6_12::..` of the function of that name.
macro_rules! on_kernels {
    ($($test:ident),* $(,)?) => {
        mod default {
            $(#[test] fn $test() { super::$test(&crate::kernel()); })*
        }
        mod v6_1 {
            $(#[test] fn $test() { super::$test("6.1"); })*
        }
        mod v6_12 {
            $(#[test] fn $test() { super::$test("6.12"); })*
        }
    };
}
pub(crate) use on_kernels;

/// Tests that take minutes on an emulated CPU: on one kernel, which is each of them where the matrix is run.
mod long {
    mod default {
        #[test]
        fn names() {
            crate::names::are_those_of_kallsyms(&crate::kernel());
        }

        #[test]
        fn stacks_while_traced() {
            crate::stacks::while_traced(&crate::kernel());
        }

        #[test]
        fn one_damage() {
            crate::damage::hides_nothing_else(&crate::kernel());
        }
    }
}

#[test]
fn busy_and_paused() {
    crowded::paused("default");
}

#[test]
fn busy_and_running() {
    crowded::running("default");
}

#[test]
fn sources_of_the_default() {
    sources::give_the_same("default");
}

#[test]
fn sources_of_6_1() {
    sources::give_the_same("6.1");
}

#[test]
fn sources_of_someone_else() {
    sources::of_someone_else();
}

#[test]
fn sources_in_odd_places() {
    sources::in_odd_places();
}

#[test]
fn sources_with_holes() {
    sources::holes_are_left_alone();
}

#[test]
fn sources_that_grow() {
    sources::ram_is_added();
}

#[test]
fn frames_go_both_ways() {
    traffic::both_ways("default");
}

#[test]
fn namespaces_and_rules() {
    traffic::namespaces("default");
}

#[test]
fn packet_types() {
    traffic::packet_types("default");
}

#[test]
fn paths_over_lo() {
    ways::over_lo();
}

#[test]
fn paths_over_veth() {
    ways::over_veth();
}

#[test]
fn paths_over_virtio_net() {
    ways::over_virtio_net();
}

#[test]
fn paths_through_a_router() {
    ways::through_a_router();
}

#[test]
fn paths_from_the_wire_through_nat() {
    ways::from_the_wire_through_nat();
}

#[test]
fn a_million_events_on_one_cpu() {
    rings::a_million_events(1);
}

#[test]
fn a_million_events_on_each_of_two() {
    rings::a_million_events(2);
}
