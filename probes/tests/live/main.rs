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
        $crate::on_kernels!($($test = super::$test),*);
    };
    ($($test:ident = $path:path),* $(,)?) => {
        mod default {
            $(#[test] fn $test() { $path(&crate::kernel()); })*
        }
        mod v6_1 {
            $(#[test] fn $test() { $path("6.1"); })*
        }
        mod v6_12 {
            $(#[test] fn $test() { $path("6.12"); })*
        }
    };
}
pub(crate) use on_kernels;

on_kernels!(
    tasks = super::tasks::are_those_of_proc,
    maps = super::maps::are_those_of_proc,
    mm_fields = super::mm::fields,
    mm_break = super::mm::the_break_moves,
    mm_pages = super::mm::pages,
    kernel_addresses = super::mm::kernel_addresses,
    ends_of_functions = super::names::last_of_a_section,
    log = super::log::records,
    modules_and_symbols = super::log::modules_and_symbols,
    types = super::types::are_those_of_pahole,
    containers = super::containers::are_sound,
    files = super::files::are_those_of_proc,
    net = super::net::are_those_of_proc,
    stacks = super::stacks::are_those_of_proc,
    stacks_in_a_switch = super::stacks::in_the_middle_of_a_switch,
    run_queues = super::runq::are_those_of_proc,
    stop_at_a_stage = super::stop::in_place,
    nft_rules = super::nft::are_those_of_nft,
    devices = super::devices::are_those_of_sys,
    time = super::time::is_that_of_proc,
    hooks = super::hooks::are_those_of_sys,
    rootkit = super::rootkit::is_found,
    interrupts = super::irq::are_those_of_proc,
    memory = super::memory::is_that_of_proc,
    code = super::text::is_what_objdump_says,
    paths_and_inodes = super::fs::are_those_of_stat,
    programs = super::exec::are_those_of_their_files,
    nftables = super::ruleset::are_those_of_nft,
    routes = super::route::are_those_of_ip,
    locks = super::locking::are_held_by_whom_proc_says,
    processes = super::process::are_those_of_proc,
);

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
fn pages_marked_by_numa_balancing_are_there() {
    numa::marked_pages_are_there();
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
fn ram_above_4_gib() {
    high::ram_above_4_gib();
}

#[test]
fn initcalls() {
    initcall::are_called_in_their_order();
}

#[test]
fn every_lie_is_survived() {
    hostile::every_lie_is_survived();
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
fn audit_of_klabs_own_module() {
    hooks::of_klabs_own_module();
}

#[test]
fn packet_types() {
    traffic::packet_types("default");
}

#[test]
fn functions_of_an_skb() {
    skb::functions();
}

#[test]
fn ipv6_takes_its_way() {
    ipv6::takes_its_way();
}

#[test]
fn filters_are_those_of_tcpdump() {
    filters::are_those_of_tcpdump();
}

#[test]
fn filters_by_place_and_mark() {
    filters::by_place_and_mark();
}

#[test]
fn filters_follow_through_nat() {
    filters::follow_through_nat();
}

#[test]
fn connections_of_zones_and_of_what_ends() {
    ruleset::connections_of_zones_and_of_what_ends();
}

#[test]
fn fragments_are_of_their_datagram() {
    fragments::are_of_their_datagram();
}

#[test]
fn packets_behind_headers_of_ipv6() {
    fragments::behind_headers_of_ipv6();
}

#[test]
fn messages_that_are_no_packets() {
    fragments::messages_that_are_no_packets();
}

#[test]
fn pcapng_is_what_tcpdump_reads() {
    pcapng::is_what_tcpdump_reads();
}

#[test]
fn a_stop_survives() {
    stop::survives();
}

#[test]
fn a_killed_waiter_leaves_a_guest_that_goes_on() {
    stop::killed_in_the_middle();
}

#[test]
fn a_dead_holder_leaves_a_guest_that_goes_on() {
    held::is_let_go();
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

#[test]
fn planted_structures() {
    planted::is_walked();
}

#[test]
fn identity_through_copies_and_tunnels() {
    identity::through_copies_and_tunnels();
}

#[test]
fn identity_together_from_the_wire() {
    identity::together_from_the_wire();
}

#[test]
fn pwru_agrees() {
    pwru::agrees();
}

#[test]
fn the_function_tracer_agrees() {
    skb::the_function_tracer_agrees();
}
