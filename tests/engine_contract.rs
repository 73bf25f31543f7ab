//! The engine contract (see `lobos::engine`), held against every engine by the same functions.
//!
//! A test is an async function that takes a [`Fixture`]: an engine with one empty bucket. The list
//! at the end of this file runs each of them once per engine.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that fails may panic"
)]

#[path = "engine_contract/buckets.rs"]
mod buckets;
#[path = "engine_contract/conditions.rs"]
mod conditions;
#[path = "engine_contract/copies.rs"]
mod copies;
#[path = "engine_contract/fixture.rs"]
mod fixture;
#[path = "engine_contract/keyspace.rs"]
mod keyspace;
#[path = "engine_contract/locks.rs"]
mod locks;
#[path = "engine_contract/multipart.rs"]
mod multipart;
#[path = "engine_contract/names.rs"]
mod names;
#[path = "engine_contract/objects.rs"]
mod objects;
#[path = "engine_contract/scans.rs"]
mod scans;
#[path = "engine_contract/uploads.rs"]
mod uploads;
#[path = "engine_contract/versions.rs"]
mod versions;

#[cfg(feature = "spdk")]
#[path = "engine_contract/spdk.rs"]
mod spdk;

use std::process::Command;

use fixture::{Fixture, WITHOUT_IO_URING, block_on};

/// Makes `#[test]`s named `<engine>::<module>::<test>`.
macro_rules! on_every_engine {
    ($($module:ident { $($test:ident)+ })+) => {
        on_every_engine!(@engine fs $($module { $($test)+ })+);
        on_every_engine!(@engine blob_file $($module { $($test)+ })+);
        on_every_engine!(@engine blob_sim $($module { $($test)+ })+);
        #[cfg(feature = "spdk")]
        on_every_engine!(@engine blob_spdk_malloc $($module { $($test)+ })+);
        #[cfg(feature = "spdk")]
        on_every_engine!(@engine blob_spdk_aio $($module { $($test)+ })+);
        #[cfg(feature = "spdk")]
        on_every_engine!(@engine blob_spdk_uring $($module { $($test)+ })+);
    };
    (@engine $engine:ident $($module:ident { $($test:ident)+ })+) => {
        mod $engine {
            $(mod $module {
                $(
                    #[test]
                    fn $test() {
                        crate::block_on(async {
                            let fixture = crate::Fixture::$engine().await;
                            crate::$module::$test(fixture).await;
                        });
                    }
                )+
            })+
        }
    };
}

/// Makes `#[test]`s named `blob_loop::<module>::<test>`, which are skipped where there is no loop
/// device.
macro_rules! on_a_block_device {
    ($($module:ident { $($test:ident)+ })+) => {
        mod blob_loop {
            $(mod $module {
                $(
                    #[test]
                    fn $test() {
                        crate::block_on(async {
                            match crate::Fixture::blob_loop().await {
                                Ok(fixture) => crate::$module::$test(fixture).await,
                                Err(reason) => {
                                    let test = stringify!($test);
                                    println!("skipped: {}::{test}: {reason}", module_path!());
                                }
                            }
                        });
                    }
                )+
            })+
        }
    };
}

on_a_block_device! {
    objects {
        what_was_put_is_got_whatever_its_size_and_pieces
        a_range_gives_exactly_its_bytes
        an_overwrite_replaces_bytes_and_metadata_together
        a_reader_sees_one_version_whole_while_others_overwrite
        a_delete_says_what_it_found
        everything_survives_a_restart
    }
    conditions {
        of_32_racing_first_writers_exactly_one_wins
    }
    multipart {
        an_upload_becomes_one_object
        many_parts_become_one_object
        of_racing_completes_one_makes_the_object
    }
    uploads {
        an_upload_survives_a_restart_with_its_parts
    }
    keyspace {
        random_operations_agree_with_a_model
    }
}

/// In a program with SPDK the whole contract is held against each kind of bdev instead.
#[cfg(not(feature = "spdk"))]
#[test]
fn the_contract_holds_on_spdk() {
    for bdev in ["malloc", "aio", "uring"] {
        println!("skipped: the_contract_holds_on_spdk: the feature `spdk` is off ({bdev} bdev)");
    }
}

/// This very program once more, for the engine on a file, in a process that may not make a ring.
#[test]
fn the_contract_holds_where_io_uring_is_forbidden() {
    let name = "the_contract_holds_where_io_uring_is_forbidden";
    let directory = tempfile::tempdir().unwrap();
    let launcher = directory.path().join("no_io_uring");
    let source = "tests/engine_contract/no_io_uring.c";
    let compiled = Command::new("cc")
        .args(["-O1", "-o"])
        .arg(&launcher)
        .arg(source)
        .output();
    if !compiled.is_ok_and(|compiled| compiled.status.success()) {
        println!("skipped: {name}: it needs a C compiler and the headers of Linux");
        return;
    }
    let ran = Command::new(&launcher)
        .arg(std::env::current_exe().unwrap())
        .args([
            "blob_file::objects",
            "blob_file::multipart",
            "blob_file::uploads",
        ])
        .env(WITHOUT_IO_URING, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    if ran.status.code() == Some(3) {
        println!(
            "skipped: {name}: {}",
            String::from_utf8_lossy(&ran.stderr).trim()
        );
        return;
    }
    assert!(ran.status.success(), "{said}");
    assert!(!said.contains(" 0 passed"), "{said}");
}

on_every_engine! {
    objects {
        a_rename_moves_an_entry_at_once
        a_seal_stays_with_its_bytes
        what_was_put_is_got_whatever_its_size_and_pieces
        a_range_gives_exactly_its_bytes
        an_absent_key_is_no_such_key
        an_entry_keeps_everything_the_commit_gave_it
        large_metadata_is_kept
        every_kind_of_checksum_is_kept
        an_overwrite_replaces_bytes_and_metadata_together
        a_reader_gives_the_bytes_that_were_current_when_it_was_opened
        a_reader_sees_one_version_whole_while_others_overwrite
        a_dropped_writer_leaves_nothing
        a_dropped_writer_leaves_the_old_object
        set_metadata_changes_metadata_and_time_alone
        set_acl_changes_the_acl_alone
        set_tags_changes_tags_alone
        a_file_that_is_tagged_stays_what_its_name_says
        a_delete_says_what_it_found
        everything_survives_a_restart
        a_twin_engine_sees_every_change_at_once
    }
    conditions {
        if_none_match_any_protects_what_is_there
        if_match_asks_for_what_is_there
        a_failed_precondition_changes_nothing
        set_metadata_obeys_its_precondition
        a_delete_obeys_its_precondition
        of_32_racing_first_writers_exactly_one_wins
        of_32_racing_first_writers_on_two_engines_exactly_one_wins
        compare_and_swap_loses_no_update
        of_racing_conditional_deletes_exactly_one_removes
    }
    copies {
        append_from_copies_the_whole_of_another_entry
        append_from_takes_exactly_the_range
        append_from_joins_pieces_of_several_entries_and_bytes
        an_entry_can_be_rewritten_from_itself
        a_source_that_is_replaced_meanwhile_gives_its_old_bytes
        append_from_works_across_buckets
    }
    buckets {
        a_bucket_is_made_once_and_found
        a_bucket_keeps_its_configuration
        a_changed_configuration_is_what_everybody_reads
        a_refused_change_of_the_configuration_changes_nothing
        racing_changes_of_the_configuration_are_all_kept
        buckets_are_listed_by_name
        a_bucket_with_an_object_is_not_deleted
        a_bucket_is_deleted_when_its_objects_are_gone
        a_bucket_that_does_not_exist_is_no_such_bucket
        a_deleted_bucket_is_not_written_through_an_old_handle
    }
    names {
        every_odd_key_lives_alone
        odd_keys_live_beside_each_other
        odd_keys_are_deleted_one_by_one
        odd_keys_survive_overwrites_and_a_restart
        a_key_and_keys_below_it_come_and_go_in_any_order
        a_reserved_name_is_a_key_like_any_other
        a_prefix_is_a_string_not_a_path
    }
    keyspace {
        random_operations_agree_with_a_model
    }
    scans {
        keys_come_in_the_order_of_their_bytes
        a_listed_entry_is_the_one_that_head_gives
        every_prefix_delimiter_and_resume_point_agrees_with_a_sorted_list
        pages_of_any_size_join_to_the_whole
        an_empty_limit_gives_an_empty_page
        a_page_that_ends_with_the_last_item_is_not_truncated
        a_common_prefix_is_resumed_after_all_its_keys
        a_scan_sees_what_was_written_before_it_started
        stable_keys_are_listed_once_while_others_come_and_go
        many_keys_in_one_directory_are_listed
    }
    versions {
        every_commit_is_a_version_that_is_found_by_its_id
        what_was_there_before_versioning_is_the_null_version
        a_delete_leaves_a_marker_and_a_marker_is_no_entry
        a_key_that_never_was_gets_a_marker_too
        what_was_before_comes_back_when_the_newest_is_removed
        suspended_writes_replace_the_null_version_alone
        completions_and_copies_are_versions_and_metadata_is_not
        each_version_has_tags_of_its_own
        large_metadata_of_every_version_is_kept
        versions_are_listed_by_key_page_by_page
        racing_writers_lose_no_version
        p19_the_order_of_versions_is_that_of_their_commits_whatever_the_clock_says
        versions_of_keys_that_begin_with_each_other_stay_apart
        a_copy_shares_bytes_with_versions_that_come_and_go
        random_operations_on_versions_agree_with_a_model
    }
    locks {
        a_locked_version_is_not_removed
        who_may_bypass_governance_removes_what_it_retains
        a_retention_is_shortened_by_nobody_who_may_not
        a_version_gets_the_default_of_its_bucket
        a_locked_key_is_written_and_marked_all_the_same
        a_lock_stays_when_everything_else_changes
        an_older_version_is_locked_by_its_id
        a_locked_null_version_outlives_what_another_program_puts_there
        a_bucket_without_locks_takes_none
        of_a_lock_and_a_removal_that_race_one_wins
        random_operations_on_locks_agree_with_a_model
    }
    multipart {
        an_upload_becomes_one_object
        uniform_parts_in_any_order_become_one_object
        parts_of_unequal_sizes_become_one_object
        an_upload_of_one_empty_part_is_an_empty_object
        parts_of_unknown_length_become_one_object
        a_part_uploaded_again_replaces_the_first
        a_part_uploaded_again_may_have_another_size
        a_failed_second_upload_of_a_part_leaves_the_first
        two_writers_of_one_part_do_not_mix
        parts_may_be_left_out
        part_numbers_may_have_gaps
        a_part_copied_from_an_object_is_a_part
        a_wrong_part_is_invalid
        completing_obeys_its_precondition
        a_failed_complete_leaves_the_upload_whole
        completing_again_answers_the_same_entry
        completing_again_after_an_overwrite_finds_no_upload
        a_part_that_was_begun_before_completion_does_not_touch_the_object
        many_parts_become_one_object
        a_complete_replaces_the_old_object_whole
        of_racing_completes_one_makes_the_object
    }
    uploads {
        an_upload_is_described_as_it_was_opened
        an_upload_survives_a_restart_with_its_parts
        an_upload_belongs_to_its_key
        an_aborted_upload_is_gone
        a_part_begun_before_an_abort_is_refused
        parts_are_listed_in_pages
        uploads_are_listed_by_key_and_time
        uploads_are_listed_in_pages
        uploads_are_rolled_up_at_the_delimiter
        uploads_of_odd_keys_work
        an_upload_shows_no_object_before_it_is_complete
        a_twin_engine_continues_an_upload
    }
}
