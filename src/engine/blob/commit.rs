//! Group commit: sequencing under one short lock, one journal block and one flush per batch, led
//! by a writer that has a record in it. See `docs/design-blob.md`, section 2.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::codec::crc32c;
use super::core::{BucketState, Core, allocations_of, apply_item};
use super::entry::{Allocation, Piece, Place};
use super::journal::{self, Head, Ring};
use super::layout::{BLOCK, BLOCK_BYTES, BODY_BYTES_MAX, Extent, JOURNAL_FIRST};
use super::pending::{Newest, PendingItems};
use super::planted::is_planted;
use super::put::Holding;
use super::record::{Change, ItemKey, Record, Table};
use super::superblock::Start;
use super::transfer;
use crate::engine::{Durability, EngineError};

/// Data writes that a commit waits for.
pub(super) type Writes = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// What sequencing knows. Lock it for moments only.
#[derive(Debug)]
pub(super) struct Sequencer {
    pub(super) ring: Ring,
    pub(super) next_sequence: u64,
    /// Hash of the last journal block.
    pub(super) hash: u64,
    /// Where the first journal block is that is not in the index yet.
    unpublished: Start,
    /// Highest `durable` that a block in the index says.
    said_durable: u64,
    queue: VecDeque<Gathering>,
    is_committing: bool,
    pending: PendingItems,
    /// For the planted bug that writes it again: the last journal block, its place and its body.
    #[cfg(lobos_mutants)]
    last_block: Option<(Head, u64, Vec<u8>)>,
}

/// Records that will be one journal block.
#[derive(Debug)]
struct Gathering {
    batch: Arc<Batch>,
    body: Vec<u8>,
    changes: Vec<Pending>,
    pages: Vec<Page>,
}

#[derive(Debug)]
struct Pending {
    record: Record,
    /// Allocations with an owner already, of which the record is a further one.
    retains: Vec<Allocation>,
    bucket: Option<Arc<BucketState>>,
}

/// A shared page.
#[derive(Debug)]
struct Page {
    block: u64,
    bytes: Vec<u8>,
}

impl Page {
    fn extent(&self) -> Extent {
        Extent {
            first: self.block,
            count: 1,
        }
    }
}

/// What the writers of a batch wait for.
#[derive(Debug)]
pub(super) struct Batch {
    /// Data writes that have not completed.
    outstanding: AtomicUsize,
    settled: Notify,
    has_failed: AtomicBool,
    /// One of its writers is to lead it.
    lead: Notify,
    done: watch::Sender<Option<bool>>,
}

impl Batch {
    fn settle(&self, result: &io::Result<()>) {
        if result.is_err() {
            self.has_failed.store(true, Ordering::Release);
        }
        if self.outstanding.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.settled.notify_one();
        }
    }

    async fn wait_settled(&self) {
        while self.outstanding.load(Ordering::Acquire) > 0 {
            self.settled.notified().await;
        }
    }

    async fn wait_done(&self) -> Result<(), EngineError> {
        let mut done = self.done.subscribe();
        let answer = done.wait_for(Option::is_some).await;
        match answer.is_ok_and(|answer| *answer == Some(true)) {
            true => Ok(()),
            false => Err(failed()),
        }
    }
}

impl Sequencer {
    /// The next journal block goes to the ring's head, behind a block with this hash.
    pub(super) fn new(ring: Ring, next_sequence: u64, hash: u64) -> Self {
        Self {
            unpublished: Start {
                sequence: next_sequence,
                place: ring.head(),
                hash,
            },
            said_durable: 0,
            ring,
            next_sequence,
            hash,
            queue: VecDeque::new(),
            is_committing: false,
            pending: PendingItems::default(),
            #[cfg(lobos_mutants)]
            last_block: None,
        }
    }

    pub(super) fn unpublished(&self) -> Start {
        self.unpublished
    }

    /// Body bytes of one journal block: many fit into the ring.
    fn body_max(&self) -> usize {
        let share = usize::try_from(self.ring.blocks() / 8).unwrap_or(0) * BLOCK_BYTES;
        BODY_BYTES_MAX.min(share - journal::HEAD_BYTES)
    }

    /// Whether another batch fits below the limit of its class. Upholds I10.
    fn has_room(&self, class: Class) -> bool {
        let whole = journal::block_count(self.body_max());
        let queued = whole * (self.queue.len() as u64 + 1);
        let limit = match class {
            Class::Write => self.ring.blocks() * 3 / 4,
            Class::Delete => self.ring.blocks() * 15 / 16,
        };
        // Once around the ring's end less than a block's length is left out.
        self.ring.used() + queued + whole <= limit
    }
}

/// What may still be done when little room is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Write,
    Delete,
}

/// Sequencing of one group of records: what is there, and what shall be.
pub(super) struct Turn<'a> {
    core: &'a Core,
    sequencer: &'a mut Sequencer,
    changes: Vec<Pending>,
    /// Blocks that the records name.
    pub(super) kept: Vec<Arc<Holding>>,
    /// The batches whose records were seen.
    consulted: Vec<Arc<Batch>>,
    /// A journal block is wanted even without records: its flush proves what was freed (I3).
    pub(super) is_forced: bool,
}

impl Turn<'_> {
    /// The item as it will be when all records before this one are in the index.
    pub(super) fn get(
        &mut self,
        bucket: Option<&BucketState>,
        item: &ItemKey,
    ) -> Option<Box<[u8]>> {
        if let Some(newest) = self.sequencer.pending.get(item) {
            consult(&mut self.consulted, &newest.batch);
            return newest.value.clone();
        }
        bucket?.tree(item.table)?.value(&item.key)
    }

    /// The first of a bucket's versions, as they will be, that is at or behind `from`.
    pub(super) fn next_version(
        &mut self,
        bucket: &BucketState,
        from: ItemKey,
    ) -> Option<(ItemKey, Box<[u8]>)> {
        let mut from = from;
        loop {
            let there = bucket.versions.items_from(&from.key, 1).pop();
            let pending = self.sequencer.pending.next(&from);
            let Some((item, newest)) = pending
                .filter(|(item, _)| there.as_ref().is_none_or(|(there, _)| item.key <= *there))
            else {
                let (key, value) = there?;
                return Some((ItemKey { key, ..from }, value));
            };
            consult(&mut self.consulted, &newest.batch);
            if let Some(value) = &newest.value {
                return Some((item.clone(), value.clone()));
            }
            from.key = [&item.key, &[0][..]].concat().into();
        }
    }

    pub(super) fn check_room_for_marker(&self) -> Result<(), EngineError> {
        self.core.check_room_for_marker()
    }

    pub(super) fn has_bucket(&mut self, item: &ItemKey) -> bool {
        match self.sequencer.pending.get(item) {
            Some(newest) => {
                consult(&mut self.consulted, &newest.batch);
                newest.value.is_some()
            }
            None => {
                let buckets = &self.core.buckets;
                let buckets = buckets.read().unwrap_or_else(PoisonError::into_inner);
                let mut names = buckets.by_name.keys();
                names.any(|name| name.as_str().as_bytes() == &*item.key)
            }
        }
    }

    pub(super) fn change(
        &mut self,
        bucket: Option<&Arc<BucketState>>,
        item: ItemKey,
        change: Change,
        retains: Vec<Allocation>,
    ) {
        self.changes.push(Pending {
            record: Record { item, change },
            retains,
            bucket: bucket.cloned(),
        });
    }

    /// Puts a small object into a shared page of the batch. The second value says that the page
    /// has an owner already.
    pub(super) fn pack(
        &mut self,
        bytes: &[u8],
    ) -> Result<(Piece, Option<Allocation>), EngineError> {
        let gathering = self.sequencer.queue.back_mut().ok_or(EngineError::Busy)?;
        let fits = |page: &Page| page.bytes.len() + bytes.len() <= BLOCK_BYTES;
        let is_shared = gathering.pages.last().is_some_and(fits);
        if !is_shared {
            let taken = self.core.allocate(1)?;
            let block = taken.first().map_or(0, |extent| extent.first);
            gathering.pages.push(Page {
                block,
                bytes: Vec::with_capacity(BLOCK_BYTES),
            });
        }
        let page = gathering.pages.last_mut().ok_or(EngineError::Busy)?;
        let offset = page.bytes.len();
        page.bytes.extend_from_slice(bytes);
        let piece = Piece {
            size_bytes: bytes.len() as u64,
            place: Place::Page {
                block: page.block,
                offset,
                crc: crc32c(bytes),
            },
        };
        Ok((piece, is_shared.then(|| vec![page.extent()])))
    }
}

fn consult(consulted: &mut Vec<Arc<Batch>>, batch: &Arc<Batch>) {
    if !consulted.iter().any(|known| Arc::ptr_eq(known, batch)) {
        consulted.push(Arc::clone(batch));
    }
}

/// A place in a batch.
struct Ticket {
    batch: Arc<Batch>,
    leads: bool,
}

impl Core {
    /// Sequences what `decide` makes of the present state, and comes back when it is durable (or,
    /// relaxed, written). It runs to its end also if the caller goes away.
    pub(super) async fn commit<T: Send + 'static>(
        self: &Arc<Self>,
        class: Class,
        writes: Option<Writes>,
        decide: impl FnOnce(&mut Turn<'_>) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let core = Arc::clone(self);
        let task = self
            .tasks
            .spawn(async move { core.commit_here(class, writes, decide).await });
        task.await.unwrap_or_else(|_| Err(failed()))
    }

    async fn commit_here<T>(
        self: &Arc<Self>,
        class: Class,
        writes: Option<Writes>,
        decide: impl FnOnce(&mut Turn<'_>) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        self.wait_for_room(class).await?;
        let (decided, consulted, ticket) = abort_on_panic(|| self.sequence(decide));
        let Some(ticket) = ticket else {
            if let Some(writes) = writes {
                // The blocks go back only after their last write (I11).
                let _ = writes.await;
            }
            // Upholds I2: what a pending record decided is answered with it.
            if !is_planted("answer_before_deciding_commit") {
                for batch in consulted {
                    batch.wait_done().await?;
                }
            }
            return decided;
        };
        let batch = Arc::clone(&ticket.batch);
        let data = async {
            let result = match writes {
                Some(writes) => writes.await,
                None => Ok(()),
            };
            batch.settle(&result);
        };
        if ticket.leads {
            tokio::join!(data, self.lead());
        } else {
            data.await;
            tokio::select! {
                biased;
                () = batch.lead.notified() => self.lead().await,
                _ = batch.wait_done() => {}
            }
        }
        ticket.batch.wait_done().await?;
        decided
    }

    async fn wait_for_room(self: &Arc<Self>, class: Class) -> Result<(), EngineError> {
        for _ in 0..ROOM_WAITS_MAX {
            self.check_writable()?;
            let released = self.room.notified();
            let has_room = self.lock_sequencer().has_room(class);
            if has_room {
                return Ok(());
            }
            self.start_checkpoint();
            let _ = tokio::time::timeout(ROOM_WAIT, released).await;
        }
        Err(EngineError::Busy)
    }

    pub(super) fn lock_sequencer(&self) -> std::sync::MutexGuard<'_, Sequencer> {
        self.sequencer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Evaluates and, if there are records, puts them into the last batch.
    fn sequence<T>(
        &self,
        decide: impl FnOnce(&mut Turn<'_>) -> Result<T, EngineError>,
    ) -> (Result<T, EngineError>, Vec<Arc<Batch>>, Option<Ticket>) {
        let mut sequencer = self.lock_sequencer();
        let half = sequencer.body_max() / 2;
        if sequencer
            .queue
            .back()
            .is_none_or(|last| last.body.len() > half)
        {
            sequencer.queue.push_back(Gathering::new());
        }
        let mut turn = Turn {
            core: self,
            sequencer: &mut sequencer,
            changes: Vec::new(),
            kept: Vec::new(),
            consulted: Vec::new(),
            is_forced: false,
        };
        let decided = decide(&mut turn);
        let (changes, kept) = (turn.changes, turn.kept);
        let (consulted, is_forced) = (turn.consulted, turn.is_forced);
        let mut encoded = Vec::new();
        changes
            .iter()
            .for_each(|change| change.record.encode(&mut encoded));
        let sequencer = &mut *sequencer;
        let body_max = sequencer.body_max();
        let Some(last) = sequencer.queue.back_mut() else {
            return (decided, consulted, None);
        };
        if encoded.len() > body_max - half {
            return (Err(EngineError::Full), consulted, None);
        }
        if decided.is_err() || (changes.is_empty() && !is_forced) {
            // A batch that was begun for nothing does not stay.
            if last.changes.is_empty() {
                for page in sequencer
                    .queue
                    .pop_back()
                    .iter()
                    .flat_map(|empty| &empty.pages)
                {
                    self.space.give_back(&[page.extent()]);
                }
            }
            return (decided, consulted, None);
        }
        kept.iter().for_each(|holding| holding.keep());
        let batch = Arc::clone(&last.batch);
        batch.outstanding.fetch_add(1, Ordering::AcqRel);
        last.body.extend_from_slice(&encoded);
        for change in changes {
            expect(&sequencer.pending, &change);
            if let Change::Put { value, .. } = &change.record.change {
                let newest = newest(Some(value.clone()), &batch);
                sequencer.pending.insert(change.record.item.clone(), newest);
            } else if change.record.change == Change::Gone {
                let newest = newest(None, &batch);
                sequencer.pending.insert(change.record.item.clone(), newest);
            }
            last.changes.push(change);
        }
        let leads = !std::mem::replace(&mut sequencer.is_committing, true);
        (decided, consulted, Some(Ticket { batch, leads }))
    }

    /// Commits the first batch, and hands the lead to a writer of the next.
    async fn lead(self: &Arc<Self>) {
        abort_on_panic_of(self.lead_batch()).await;
        self.consider_checkpoint();
    }

    async fn lead_batch(self: &Arc<Self>) {
        let mut guard = LeadGuard {
            core: self,
            batch: None,
        };
        let (sealed, gathering) = self.seal();
        guard.batch = Some(Arc::clone(&gathering.batch));
        #[cfg(lobos_mutants)]
        self.free_early(&sealed, &gathering);
        let result = self.write_batch(&sealed, &gathering).await;
        let batch = Arc::clone(&gathering.batch);
        match &result {
            Ok(durability) => self.publish(&sealed, gathering, *durability),
            Err(error) => self.poison(error),
        }
        guard.batch = None;
        drop(guard);
        batch.done.send_replace(Some(result.is_ok()));
        self.hand_over(result.is_ok());
    }

    fn seal(&self) -> (Sealed, Gathering) {
        let mut sequencer = self.lock_sequencer();
        let gathering = sequencer.queue.pop_front().unwrap_or_else(Gathering::new);
        #[cfg(lobos_mutants)]
        if is_planted("last_block_rewritten")
            && let Some(sealed) = rewrite_last(&mut sequencer, &gathering)
        {
            return (sealed, gathering);
        }
        let superblock = self.superblock();
        let durable = self.durable.load(Ordering::Acquire);
        let head = Head {
            uuid: superblock.uuid,
            epoch: superblock.epoch,
            sequence: sequencer.next_sequence,
            previous: sequencer.hash,
            durable,
            body_bytes: u32::try_from(gathering.body.len()).unwrap_or(u32::MAX),
            records: u32::try_from(gathering.changes.len()).unwrap_or(u32::MAX),
        };
        let bytes = head.seal(&gathering.body);
        let place = sequencer.ring.push(head.blocks());
        sequencer.next_sequence += 1;
        sequencer.hash = journal::hash(&bytes);
        #[cfg(lobos_mutants)]
        {
            sequencer.last_block = Some((head, place, gathering.body.clone()));
        }
        let sealed = Sealed {
            sequence: head.sequence,
            durable,
            place,
            next: Start {
                sequence: sequencer.next_sequence,
                place: sequencer.ring.head(),
                hash: sequencer.hash,
            },
            bytes,
        };
        (sealed, gathering)
    }

    /// Journal block, pages and data, then one flush, unless nobody in the batch waits for
    /// one. Says which. Upholds I1.
    async fn write_batch(&self, sealed: &Sealed, gathering: &Gathering) -> io::Result<Durability> {
        let journal = transfer::write(
            &self.device,
            (JOURNAL_FIRST + sealed.place) * BLOCK,
            &sealed.bytes,
        );
        let pages = gathering
            .pages
            .iter()
            .map(|page| transfer::write(&self.device, page.block * BLOCK, &page.bytes));
        let pages = futures_util::future::try_join_all(pages);
        let (journal, pages) = tokio::join!(journal, pages);
        if !is_planted("flush_before_data") {
            gathering.batch.wait_settled().await;
        }
        journal.and(pages)?;
        if gathering.batch.has_failed.load(Ordering::Acquire) {
            return Err(io::Error::other("a write of data failed"));
        }
        self.check_whole().map_err(io::Error::other)?;
        if is_planted("acknowledge_before_flush") {
            return Ok(self.durability);
        }
        let durability = self.durability_of(gathering);
        if durability == Durability::Strict {
            self.flush().await?;
        }
        Ok(durability)
    }

    /// A batch is flushed before it is answered if one of its buckets wants that.
    fn durability_of(&self, gathering: &Gathering) -> Durability {
        let of = |change: &Pending| {
            let bucket = change.bucket.as_ref();
            let own = bucket.and_then(|bucket| bucket.config.load().durability);
            own.unwrap_or(self.durability)
        };
        match gathering.changes.as_slice() {
            [] => self.durability,
            changes if changes.iter().any(|it| of(it) == Durability::Strict) => Durability::Strict,
            _ => Durability::Relaxed,
        }
    }

    fn publish(self: &Arc<Self>, sealed: &Sealed, gathering: Gathering, durability: Durability) {
        let Gathering { batch, changes, .. } = gathering;
        for change in &changes {
            for allocation in &change.retains {
                self.space.retain(allocation);
            }
            let old = match &change.bucket {
                Some(bucket) if change.record.item.table != Table::Buckets => {
                    apply_item(bucket, &change.record)
                }
                _ => {
                    let buckets = self.buckets.write();
                    let mut buckets = buckets.unwrap_or_else(PoisonError::into_inner);
                    buckets.apply(&change.record)
                }
            };
            if is_planted("free_before_durable") {
                continue;
            }
            for value in old.into_iter().flatten() {
                for allocation in allocations_of(&value) {
                    self.space.release(sealed.sequence, allocation);
                }
            }
        }
        match durability {
            Durability::Strict => {
                self.durable.fetch_max(sealed.sequence, Ordering::AcqRel);
                let durable = match is_planted("reuse_one_batch_early") {
                    true => sealed.sequence,
                    false => sealed.durable,
                };
                self.space.prove(durable);
            }
            Durability::Relaxed => self.arm_flush(),
        }
        self.start_discards();
        let mut sequencer = self.lock_sequencer();
        sequencer.unpublished = sealed.next;
        sequencer.said_durable = sealed.durable;
        for change in changes {
            sequencer.pending.published(&change.record.item, &batch);
        }
    }

    /// Relaxed: one flush follows within [`RELAXED_WINDOW`].
    fn arm_flush(self: &Arc<Self>) {
        if self.flush_is_armed.swap(true, Ordering::AcqRel) {
            return;
        }
        let core = Arc::clone(self);
        self.tasks.spawn_at_home(async move {
            tokio::select! {
                () = tokio::time::sleep(RELAXED_WINDOW) => {}
                () = core.closing.notified() => {}
            }
            core.flush_armed().await;
        });
    }

    /// Flushes what was answered before its flush.
    pub(super) async fn flush_armed(self: &Arc<Self>) {
        self.flush_is_armed.store(false, Ordering::Release);
        // All batches in the index have been written.
        let (written, proven) = {
            let sequencer = self.lock_sequencer();
            (sequencer.unpublished.sequence - 1, sequencer.said_durable)
        };
        match self.flush().await {
            Ok(()) => {
                self.durable.fetch_max(written, Ordering::AcqRel);
                self.space.prove(proven);
            }
            Err(error) => self.poison(&error),
        }
    }

    /// Planted: what the batch replaces is free before the batch is durable.
    #[cfg(lobos_mutants)]
    fn free_early(&self, sealed: &Sealed, gathering: &Gathering) {
        if !is_planted("free_before_durable") {
            return;
        }
        let mut seen = std::collections::HashSet::new();
        for change in &gathering.changes {
            let item = &change.record.item;
            let tree = change.bucket.as_ref().and_then(|b| b.tree(item.table));
            let old = tree.and_then(|tree| tree.value(&item.key));
            for value in old.into_iter().filter(|_| seen.insert(item.clone())) {
                for allocation in allocations_of(&value) {
                    self.space.release(sealed.sequence, allocation);
                }
            }
        }
        self.space.prove(u64::MAX);
    }

    fn hand_over(&self, goes_on: bool) {
        let mut sequencer = self.lock_sequencer();
        if !goes_on {
            for gathering in sequencer.queue.drain(..) {
                gathering.batch.done.send_replace(Some(false));
            }
        }
        match sequencer.queue.front() {
            Some(next) => next.batch.lead.notify_one(),
            None => sequencer.is_committing = false,
        }
    }
}

impl Gathering {
    fn new() -> Self {
        Self {
            batch: Arc::new(Batch {
                outstanding: AtomicUsize::new(0),
                settled: Notify::new(),
                has_failed: AtomicBool::new(false),
                lead: Notify::new(),
                done: watch::Sender::new(None),
            }),
            body: Vec::new(),
            changes: Vec::new(),
            pages: Vec::new(),
        }
    }
}

/// Planted: the batch joins the block before it, which is written a second time.
#[cfg(lobos_mutants)]
fn rewrite_last(sequencer: &mut Sequencer, gathering: &Gathering) -> Option<Sealed> {
    let (last, place, mut body) = sequencer.last_block.take()?;
    body.extend_from_slice(&gathering.body);
    let head = Head {
        body_bytes: u32::try_from(body.len()).ok()?,
        records: last.records + u32::try_from(gathering.changes.len()).ok()?,
        ..last
    };
    if head.blocks() != last.blocks() {
        return None;
    }
    let bytes = head.seal(&body);
    sequencer.hash = journal::hash(&bytes);
    sequencer.last_block = Some((head, place, body));
    Some(Sealed {
        sequence: head.sequence,
        durable: head.durable,
        place,
        next: Start {
            sequence: sequencer.next_sequence,
            place: sequencer.ring.head(),
            hash: sequencer.hash,
        },
        bytes,
    })
}

struct Sealed {
    sequence: u64,
    /// What the block itself says.
    durable: u64,
    place: u64,
    /// Behind it.
    next: Start,
    bytes: Vec<u8>,
}

fn newest(value: Option<Box<[u8]>>, batch: &Arc<Batch>) -> Newest {
    Newest {
        value,
        batch: Arc::clone(batch),
    }
}

/// Counts the objects and versions that will be there, and marks a bucket that will not.
fn expect(pending: &PendingItems, change: &Pending) {
    let Some(bucket) = &change.bucket else {
        return;
    };
    let item = &change.record.item;
    match item.table {
        Table::Buckets => bucket.is_going.store(true, Ordering::Release),
        Table::Objects | Table::Versions => {
            let tree = bucket.tree(item.table);
            let was_there = match pending.get(item) {
                Some(newest) => newest.value.is_some(),
                None => tree.is_some_and(|tree| tree.get(&item.key, |_| ()).is_some()),
            };
            match (was_there, &change.record.change) {
                (false, Change::Put { .. }) => {
                    bucket.expected.fetch_add(1, Ordering::AcqRel);
                }
                (true, Change::Gone) => {
                    bucket.expected.fetch_sub(1, Ordering::AcqRel);
                }
                _ => {}
            }
        }
        Table::Uploads | Table::Parts => {}
    }
}

fn failed() -> EngineError {
    EngineError::Io {
        doing: "committing to the device",
        source: io::Error::other("a write or flush failed, or the server stops"),
    }
}

/// A leader that goes away in the middle leaves a batch of unknown state behind. Upholds I9.
struct LeadGuard<'a> {
    core: &'a Arc<Core>,
    batch: Option<Arc<Batch>>,
}

impl Drop for LeadGuard<'_> {
    fn drop(&mut self) {
        if let Some(batch) = self.batch.take() {
            self.core
                .poison(&io::Error::other("a commit was broken off"));
            batch.done.send_replace(Some(false));
            self.core.hand_over(false);
        }
    }
}

/// A panic that comes out of `call` ends the process. Upholds I12.
pub(super) fn abort_on_panic<T>(call: impl FnOnce() -> T) -> T {
    let unwinding = Unwinding;
    let value = call();
    std::mem::forget(unwinding);
    value
}

/// A panic that comes out of a poll of `future` ends the process; that the future is dropped, by
/// another panic or without one, does not. Upholds I12.
pub(super) async fn abort_on_panic_of<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| abort_on_panic(|| future.as_mut().poll(cx))).await
}

/// Dropped only where a panic unwinds.
struct Unwinding;

impl Drop for Unwinding {
    fn drop(&mut self) {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("without a name");
        // Not through the log: this must be seen whatever is set up, also beneath a test harness.
        let text = format!("thread {name}: a panic inside the blob engine ends the process\n");
        let _nothing_left_to_do = io::Write::write_all(&mut io::stderr(), text.as_bytes());
        std::process::abort();
    }
}

const RELAXED_WINDOW: Duration = Duration::from_millis(100);
const ROOM_WAIT: Duration = Duration::from_millis(500);
const ROOM_WAITS_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::task::Context;

    use super::*;

    #[test]
    fn i12_a_guarded_future_is_dropped_by_a_panic_elsewhere_and_the_process_goes_on() {
        let unwound = std::panic::catch_unwind(|| {
            let mut guarded = Box::pin(abort_on_panic_of(std::future::pending::<()>()));
            let mut context = Context::from_waker(std::task::Waker::noop());
            assert!(guarded.as_mut().poll(&mut context).is_pending());
            panic!("elsewhere");
        });
        assert!(unwound.is_err());
    }

    /// Runs itself again as the process that ends.
    #[test]
    fn i12_a_panic_of_a_guarded_future_ends_the_process() {
        const NAME: &str = "LOBOS_TEST_PANICS";
        if std::env::var_os(NAME).is_some() {
            let mut guarded = Box::pin(abort_on_panic_of(async { panic!("its own") }));
            let mut context = Context::from_waker(std::task::Waker::noop());
            let _never: std::task::Poll<()> = guarded.as_mut().poll(&mut context);
        }
        let test = "engine::blob::commit::tests::i12_a_panic_of_a_guarded_future_ends_the_process";
        let ended = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact"])
            .env(NAME, "1")
            .output()
            .unwrap();
        assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{ended:?}");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(
            said.contains("a panic inside the blob engine ends the process"),
            "{said}"
        );
    }
}
