//! Peers that mean harm: every reaction (R) and every limit of the protocol's security requirements,
//! and the test that shows it. Here are those that nothing else shows; rows that others show are
//! listed too. `CONFORMANCE.md` names the same tests with their files, and is checked to be true.
//!
//! | row | shown by |
//! | --- | --- |
//! | R1 | `conformance/reactions`, `encryption`, `r01_what_is_said_under_another_label_is_not_heard` |
//! | R2 | `encryption`, `wire/envelope/tests` |
//! | R3 | `encryption`, `wire/envelope/tests` |
//! | R4 | `conformance/reactions` |
//! | R5 | `conformance/reactions` |
//! | R6 | `conformance/reactions`, `r09_containers_in_containers_do_not_multiply` |
//! | R7 | `conformance/reactions`, `wire/packet/tests` |
//! | R8 | `conformance/reactions`, `r08_bombs_in_datagrams_cost_what_the_cap_says_and_are_counted`, `r08_bombs_on_streams_do_not_hold_up_acks` |
//! | R9 | `conformance/reactions`, `wire/packet/tests`, `r09_containers_in_containers_do_not_multiply` |
//! | R10 | `conformance/reactions`, `r10_declared_gigabytes_are_refused_before_they_are_waited_for`, `r10_declared_counts_of_values_are_waited_for_without_any_memory` |
//! | R11 | `conformance/reactions`, `wire/packet/structures`, `r11_invalid_entries_of_a_table_are_skipped_and_counted` |
//! | R12 | `conformance/reactions`, `r12_nothing_another_cluster_says_changes_anything` |
//! | R13 | `conformance/reactions`, `r13_a_ping_by_stream_for_another_name_is_counted_and_not_answered` |
//! | R14 | `conformance/reactions` |
//! | R15 | `conformance/reactions` |
//! | R16 | `conformance/reactions`, `node/probing` |
//! | R17 | `conformance/reactions`, `r17_no_table_can_kill_us_for_good`, `r17_a_thousand_accusations_of_ourselves_make_one_announcement` |
//! | R18 | `conformance/reactions`, `r18_a_table_of_65536_fills_the_members_and_no_more`, `r18_a_flood_of_news_is_held_to_the_size_of_the_table` |
//! | R19 | `conformance/reactions`, `r19_whoever_dawdles_is_cut_at_the_deadline_and_lets_go_of_everything`, `r19_whoever_does_not_read_our_answer_is_cut_at_the_deadline`, `r19_states_the_application_holds_are_charged_inflated` |
//! | R20 | `driver`, `r20_one_connection_more_than_there_may_be_is_closed_at_once`, `r20_a_storm_of_connections_leaves_no_trace`, `conformance/streams` |
//! | R21 | `conformance/reactions` |
//! | R22 | `conformance/reactions`, `wire/stream/tests` |
//! | R23 | `driver`, `r23_each_message_a_slow_application_loses_is_counted`, `r23_long_messages_that_wait_are_charged_inflated` |
//! | R24 | `r24_who_is_in_no_network_of_ours_is_not_heard` |
//! | R25 | `conformance/reactions`, `r25_two_addresses_for_a_name_leave_the_first_and_are_reported_now_and_then` |
//! | datagram inflated: 128 KiB | `wire/packet/tests`, `r08_bombs_in_datagrams_cost_what_the_cap_says_and_are_counted` |
//! | messages of a datagram: 255; containers: 3, of which 1 compression | `wire/packet/tests` |
//! | message of a stream: 40 MiB, raw and inflated; encrypted: 20 MiB | `wire/stream/limits`, `wire/envelope/tests` |
//! | memory of all streams: 128 MiB | `a_hundred_bombs_at_once_stay_within_the_budget`, `r19_states_the_application_holds_are_charged_inflated` |
//! | connections: 256, 16 of an address, 32 exchanges; their time | R19, R20 |
//! | entries of a table: 65 536 | `wire/stream/limits` |
//! | members: as configured | R18 |
//! | names, metadata, label, texts, payloads | `wire/packet/structures`, `wire/stream/tests`, `r11_invalid_entries_of_a_table_are_skipped_and_counted` |
//! | relays: 1024; confirmations of a suspicion | `node/probing`, `node/suspicion` |
//! | forgotten members: 256; conflicts reported: 1 in 10 s | `of_a_thousand_forgotten_members_256_are_looked_for`, R25 |
//! | keys: 16; log lines of bad input: few | `wire/keyring`, `driver/malformed` |
//! | longest announcement fits the smallest datagram (N11) | `n11_the_longest_announcement_fits_the_smallest_datagram`, `settings_beyond_their_limits_are_named_with_value_and_limit` |
//! | datagrams by the hundred thousand | `a_hundred_thousand_datagrams_are_counted_each_and_hold_up_nobody`, `members_lose_nobody_in_a_flood`, `what_gets_through_of_a_torrent_is_counted_once` |
//! | phantom members | `a_thousand_ghosts_are_believed_probed_and_forgotten_at_our_own_pace` |
#![cfg(feature = "driver")]

#[allow(dead_code, reason = "shared with other programs, which use the rest")]
#[path = "conformance/bench.rs"]
mod bench;
#[path = "hardening/bombs.rs"]
mod bombs;
#[path = "hardening/floods.rs"]
mod floods;
#[path = "hardening/hostile.rs"]
mod hostile;
#[path = "hardening/limits.rs"]
mod limits;
#[path = "hardening/poison.rs"]
mod poison;
#[path = "hardening/streams.rs"]
mod streams;
