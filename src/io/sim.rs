//! A disk in memory that does what disks may do: it forgets what was not flushed, tears and
//! reorders writes when power fails, answers in any order, and fails where a plan says so.
//!
//! One seed is one run. Nothing here looks at a clock: an operation comes nearer to its completion
//! each time anything that waits for this disk is polled, and which one completes then is drawn
//! from the seed, so that seeds vary how concurrent work interleaves. Only tests make such disks.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use super::device::Device;
use super::dma::{BLOCK_BYTES, BufferPool, DmaBuf};
use super::uring::{Operation, Outcome};

/// How a disk behaves. The default forgets and reorders, and fails nothing.
#[derive(Clone, Debug)]
pub struct SimPlan {
    pub seed: u64,
    /// Whole blocks.
    pub size_bytes: u64,
    /// What power loss cannot tear: 512 or 4096.
    pub sector_bytes: usize,
    /// An operation completes at the earliest after up to so many polls; 0: it may at once.
    pub latency_steps_max: u64,
    /// Transfers of several blocks may happen in parts, other operations between them.
    pub short_transfers: bool,
    pub faults: Vec<Fault>,
    /// Record every event, for [`SimDisk::image_at`].
    pub is_traced: bool,
}

impl SimPlan {
    pub fn new(seed: u64, size_bytes: u64) -> Self {
        Self {
            seed,
            size_bytes: size_bytes - size_bytes % BLOCK_BYTES as u64,
            sector_bytes: 512,
            latency_steps_max: 4,
            short_transfers: true,
            faults: Vec::new(),
            is_traced: false,
        }
    }
}

/// Something that goes wrong with one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The number of the operation, from 0 in the order of submission, all kinds counted.
    pub operation: u64,
    /// It happens to every later operation too.
    pub and_later: bool,
    pub kind: FaultKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// It fails with this `errno`. Of a write, any part may have happened. What a failed flush
    /// should have made durable still reads back, but no later flush makes it durable.
    Error(i32),
    /// A write that is answered and never happens.
    Lost,
    /// A write that happens to the block `to_block` and those after it.
    Misdirected { to_block: u64 },
    /// A write or read whose byte `at` arrives as the exclusive or with `mask`.
    Corrupt { at: usize, mask: u8 },
}

/// The disk, for the test that owns it; cheap to clone, all clones are one disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    buffers: BufferPool,
}

impl SimDisk {
    pub fn new(plan: SimPlan) -> Self {
        let state = State {
            random: SimRandom::new(plan.seed),
            plan,
            power: 0,
            media: Media::default(),
            waiting: Vec::new(),
            done: BTreeMap::new(),
            submitted: 0,
            steps: 0,
            trace: None,
        };
        Self::from_state(state)
    }

    fn from_state(mut state: State) -> Self {
        state.trace = state.plan.is_traced.then(|| Trace {
            start: state.media.clone(),
            events: Vec::new(),
        });
        Self {
            state: Arc::new(Mutex::new(state)),
            buffers: BufferPool::new(1 << 20),
        }
    }

    /// The disk as an engine sees it, until the next power loss.
    pub fn device(&self) -> Device {
        Device::Sim(SimDevice {
            disk: self.clone(),
            power: self.lock().power,
        })
    }

    /// Power fails and comes back: what was not flushed survives in any part, order and mixture,
    /// by `seed`. Devices from before, and what they have in flight, fail from now on. A trace
    /// begins anew.
    pub fn crash(&self, seed: u64) {
        let mut state = self.lock();
        state.cut_power();
        let sector_bytes = state.plan.sector_bytes;
        state
            .media
            .lose_power(&mut SimRandom::new(seed), sector_bytes);
        if state.trace.is_some() {
            state.trace = Some(Trace {
                start: state.media.clone(),
                events: Vec::new(),
            });
        }
    }

    /// The process dies and the machine goes on: what reached the disk stays, what was in flight
    /// happens in any part. Devices from before fail from now on.
    pub fn kill(&self, seed: u64) {
        let mut state = self.lock();
        state.cut_power();
        state.media.lose_process(&mut SimRandom::new(seed));
    }

    /// A second disk in this very state, in-flight operations included, with its own future.
    /// Power has failed for nobody; use [`SimDisk::crash`] on it to see what would survive.
    pub fn fork(&self) -> Self {
        let state = self.lock();
        let copy = State {
            random: state.random.clone(),
            plan: state.plan.clone(),
            power: state.power + 1,
            media: state.media.clone(),
            waiting: Vec::new(),
            done: BTreeMap::new(),
            submitted: state.submitted,
            steps: state.steps,
            trace: None,
        };
        drop(state);
        Self::from_state(copy)
    }

    /// Events recorded so far: cuts go from 0 to this number.
    pub fn trace_len(&self) -> usize {
        self.lock()
            .trace
            .as_ref()
            .map_or(0, |trace| trace.events.len())
    }

    /// A disk as it comes back when power failed after the first `cut` events of the trace, what
    /// was not flushed then chosen by `seed`. It has no faults and no trace.
    pub fn image_at(&self, cut: usize, seed: u64) -> Self {
        let state = self.lock();
        let mut media = Media::default();
        if let Some(trace) = &state.trace {
            media = trace.start.clone();
            for event in trace.events.iter().take(cut) {
                media.replay(event);
            }
        }
        media.lose_power(&mut SimRandom::new(seed), state.plan.sector_bytes);
        let plan = SimPlan {
            seed,
            faults: Vec::new(),
            is_traced: false,
            ..state.plan.clone()
        };
        drop(state);
        let disk = Self::new(plan);
        disk.lock().media = media;
        disk
    }

    /// Operations submitted so far.
    pub fn operations(&self) -> u64 {
        self.lock().submitted
    }

    /// Operations that are neither answered nor cut off.
    pub fn in_flight(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Replaces the faults of the plan; numbers go on counting from the disk's first operation.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        self.lock().plan.faults = faults;
    }

    /// Changes how operations are ordered from now on.
    pub fn reseed(&self, seed: u64) {
        self.lock().random = SimRandom::new(seed);
    }

    /// Blocks that are not all zeros, in order: where damage can make a difference.
    pub fn used_blocks(&self) -> Vec<u64> {
        let state = self.lock();
        let media = &state.media;
        let mut blocks: Vec<u64> = media
            .durable
            .keys()
            .chain(media.volatile.keys())
            .copied()
            .collect();
        blocks.sort_unstable();
        blocks.dedup();
        blocks.retain(|&block| media.current(block).is_some());
        blocks
    }

    /// What a read of one block would give now.
    pub fn block(&self, block: u64) -> [u8; BLOCK_BYTES] {
        let content = self.lock().media.current(block);
        content.map_or([0; BLOCK_BYTES], |content| *content)
    }

    /// Replaces one block, durably and behind everyone's back.
    pub fn set_block(&self, block: u64, content: [u8; BLOCK_BYTES]) {
        let mut state = self.lock();
        state.media.volatile.remove(&block);
        state.media.set_durable(block, content_of(&content));
    }

    /// Flips bits of one byte, durably and behind everyone's back.
    pub fn flip(&self, offset_bytes: u64, mask: u8) {
        let block = offset_bytes / BLOCK_BYTES as u64;
        let mut content = self.block(block);
        let at = usize::try_from(offset_bytes % BLOCK_BYTES as u64).unwrap_or(0);
        if let Some(byte) = content.get_mut(at) {
            *byte ^= mask;
        }
        self.set_block(block, content);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimDisk")
    }
}

/// A [`SimDisk`] between two power losses.
#[derive(Clone, Debug)]
pub struct SimDevice {
    disk: SimDisk,
    power: u64,
}

impl SimDevice {
    pub(super) fn size_bytes(&self) -> u64 {
        self.disk.lock().plan.size_bytes
    }

    pub(super) fn grow(&self, size_bytes: u64) -> u64 {
        let mut state = self.disk.lock();
        let wanted = size_bytes - size_bytes % BLOCK_BYTES as u64;
        state.plan.size_bytes = state.plan.size_bytes.max(wanted);
        state.plan.size_bytes
    }

    pub(super) fn buffers(&self) -> &BufferPool {
        &self.disk.buffers
    }

    pub(super) async fn transfer(&self, operation: Operation) -> Outcome {
        match operation {
            Operation::Read {
                offset_bytes,
                buffer,
            } => {
                let first = offset_bytes / BLOCK_BYTES as u64;
                self.submit(Kind::Read { first }, Some(buffer)).await
            }
            Operation::Write {
                offset_bytes,
                buffer,
            } => {
                let first = offset_bytes / BLOCK_BYTES as u64;
                let contents = buffer.as_chunks::<BLOCK_BYTES>().0.iter().map(content_of);
                let changes = (first..).zip(contents).collect();
                self.submit(Kind::Write { changes, next: 0 }, Some(buffer))
                    .await
            }
            Operation::Flush => self.submit(Kind::Flush { covers: 0 }, None).await,
        }
    }

    pub(super) async fn flush(&self) -> io::Result<()> {
        self.transfer(Operation::Flush).await.0
    }

    pub(super) async fn discard(&self, offset_bytes: u64, size_bytes: u64) -> io::Result<()> {
        let first = offset_bytes / BLOCK_BYTES as u64;
        let count = size_bytes / BLOCK_BYTES as u64;
        let changes = {
            let mut state = self.disk.lock();
            let mut is_zeroed = |_: &u64| state.random.below(2) == 0;
            (first..first + count)
                .filter(&mut is_zeroed)
                .map(|block| (block, None))
                .collect()
        };
        self.submit(Kind::Write { changes, next: 0 }, None).await.0
    }

    async fn submit(&self, kind: Kind, buffer: Option<DmaBuf>) -> Outcome {
        let started = {
            let mut state = self.disk.lock();
            if state.power == self.power {
                Ok(state.submit(kind, buffer))
            } else {
                Err(buffer)
            }
        };
        match started {
            Ok(id) => {
                let disk = &self.disk;
                Waiting { disk, id }.await
            }
            Err(buffer) => (Err(no_power()), buffer),
        }
    }
}

/// An operation that somebody waits for; dropped, it goes on all the same.
struct Waiting<'a> {
    disk: &'a SimDisk,
    id: u64,
}

impl Future for Waiting<'_> {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let mut state = self.disk.lock();
        if let Some(outcome) = state.deliver(self.id) {
            return Poll::Ready(outcome);
        }
        state.step();
        if let Some(outcome) = state.deliver(self.id) {
            return Poll::Ready(outcome);
        }
        drop(state);
        // Time passes by being polled.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        let outcome = state.deliver(self.id);
        if let Some(waiting) = state
            .waiting
            .iter_mut()
            .find(|waiting| waiting.id == self.id)
        {
            waiting.is_abandoned = true;
        }
        drop(state);
        drop(outcome);
    }
}

struct State {
    random: SimRandom,
    plan: SimPlan,
    /// Counts power losses.
    power: u64,
    media: Media,
    waiting: Vec<InFlight>,
    done: BTreeMap<u64, Outcome>,
    submitted: u64,
    steps: u64,
    trace: Option<Trace>,
}

struct InFlight {
    id: u64,
    kind: Kind,
    buffer: Option<DmaBuf>,
    due_step: u64,
    fault: Option<FaultKind>,
    is_abandoned: bool,
}

enum Kind {
    Read {
        first: u64,
    },
    /// What changes, and how much of it has happened.
    Write {
        changes: Arc<[Change]>,
        next: usize,
    },
    /// Makes the writes durable that had ended up to this count.
    Flush {
        covers: u64,
    },
}

/// A block and what becomes of it.
type Change = (u64, Content);

/// `None`: zeros.
type Content = Option<Arc<[u8; BLOCK_BYTES]>>;

fn content_of(bytes: &[u8; BLOCK_BYTES]) -> Content {
    bytes
        .iter()
        .any(|&byte| byte != 0)
        .then(|| Arc::new(*bytes))
}

fn no_power() -> io::Error {
    io::Error::other("the simulated machine has lost power")
}

impl State {
    fn submit(&mut self, kind: Kind, buffer: Option<DmaBuf>) -> u64 {
        let id = self.submitted;
        self.submitted += 1;
        let fault = self
            .plan
            .faults
            .iter()
            .find(|fault| fault.operation == id || (fault.and_later && fault.operation < id));
        let fault = fault.map(|fault| fault.kind);
        let kind = match kind {
            Kind::Write { changes, next } => {
                let changes = spoil(&changes, fault);
                self.record(Event::Started(id, Arc::clone(&changes)));
                Kind::Write { changes, next }
            }
            Kind::Flush { .. } => Kind::Flush {
                covers: self.media.ended,
            },
            read @ Kind::Read { .. } => read,
        };
        let latency = self.plan.latency_steps_max;
        // Now and then a disk takes very long.
        let spike = if self.random.below(64) == 0 { 16 } else { 1 };
        let due_step = self.steps + self.random.below(latency * spike + 1);
        self.waiting.push(InFlight {
            id,
            kind,
            buffer,
            due_step,
            fault,
            is_abandoned: false,
        });
        id
    }

    /// The outcome, once. A write is over when its answer is seen: a flush submitted earlier does
    /// not cover it.
    fn deliver(&mut self, id: u64) -> Option<Outcome> {
        let outcome = self.done.remove(&id)?;
        if self.media.unfinished.contains_key(&id) {
            self.record(Event::Ended(id));
        }
        Some(outcome)
    }

    /// One virtual step: at most one operation, any that is due, makes progress.
    fn step(&mut self) {
        self.steps += 1;
        let steps = self.steps;
        let due: Vec<usize> = (0..)
            .zip(&self.waiting)
            .filter(|(_, waiting)| waiting.due_step <= steps)
            .map(|(index, _)| index)
            .collect();
        let chosen = self.random.below(due.len() as u64);
        let chosen = usize::try_from(chosen)
            .ok()
            .and_then(|chosen| due.get(chosen));
        let Some(&index) = chosen else { return };
        let mut waiting = self.waiting.swap_remove(index);
        match self.advance(&mut waiting) {
            None => self.waiting.push(waiting),
            Some(_) if waiting.is_abandoned => {
                if self.media.unfinished.contains_key(&waiting.id) {
                    self.record(Event::Ended(waiting.id));
                }
            }
            Some(result) => {
                let outcome = (result, waiting.buffer);
                self.done.insert(waiting.id, outcome);
            }
        }
    }

    /// `None`: a part happened, the rest is to come.
    fn advance(&mut self, waiting: &mut InFlight) -> Option<io::Result<()>> {
        let error = match waiting.fault {
            Some(FaultKind::Error(errno)) => Some(io::Error::from_raw_os_error(errno)),
            _ => None,
        };
        match &mut waiting.kind {
            Kind::Read { first } => {
                if let (None, Some(buffer)) = (&error, &mut waiting.buffer) {
                    let size = buffer.capacity();
                    self.media.fill(*first, buffer.room_mut());
                    buffer.set_filled(size);
                    if let Some(FaultKind::Corrupt { at, mask }) = waiting.fault
                        && let Some(byte) = buffer.get_mut(at)
                    {
                        *byte ^= mask;
                    }
                }
            }
            Kind::Write { changes, next } => {
                let rest = changes.get(*next..).unwrap_or_default();
                let is_split = error.is_some() || (self.plan.short_transfers && rest.len() > 1);
                let part = if is_split && (error.is_some() || self.random.below(4) == 0) {
                    let count = self.random.below(rest.len() as u64 + 1);
                    usize::try_from(count).unwrap_or(rest.len())
                } else {
                    rest.len()
                };
                let applied: Arc<[Change]> = rest.get(..part).unwrap_or_default().into();
                *next += part;
                let is_over = *next >= changes.len() || error.is_some();
                self.record(Event::Applied(waiting.id, applied));
                if !is_over {
                    return None;
                }
            }
            Kind::Flush { covers } => {
                let covers = *covers;
                match error {
                    None => self.record(Event::Flushed(covers)),
                    Some(_) => self.record(Event::FlushFailed(covers)),
                }
            }
        }
        Some(error.map_or(Ok(()), Err))
    }

    /// Makes an event happen, and notes it.
    fn record(&mut self, event: Event) {
        self.media.replay(&event);
        if let Some(trace) = &mut self.trace {
            trace.events.push(event);
        }
    }

    fn cut_power(&mut self) {
        self.power += 1;
        for waiting in std::mem::take(&mut self.waiting) {
            if !waiting.is_abandoned {
                self.done
                    .insert(waiting.id, (Err(no_power()), waiting.buffer));
            }
        }
    }
}

/// What a planned fault makes of a write.
fn spoil(changes: &Arc<[Change]>, fault: Option<FaultKind>) -> Arc<[Change]> {
    match fault {
        Some(FaultKind::Lost) => Arc::default(),
        Some(FaultKind::Misdirected { to_block }) => {
            let contents = changes.iter().map(|(_, content)| content.clone());
            (to_block..).zip(contents).collect()
        }
        Some(FaultKind::Corrupt { at, mask }) => {
            let mut spoilt = changes.to_vec();
            if let Some((_, content)) = spoilt.get_mut(at / BLOCK_BYTES) {
                let mut bytes = content.as_ref().map_or([0; BLOCK_BYTES], |bytes| **bytes);
                if let Some(byte) = bytes.get_mut(at % BLOCK_BYTES) {
                    *byte ^= mask;
                }
                *content = content_of(&bytes);
            }
            spoilt.into()
        }
        Some(FaultKind::Error(_)) | None => Arc::clone(changes),
    }
}

struct Trace {
    start: Media,
    events: Vec<Event>,
}

#[derive(Clone)]
enum Event {
    /// A write is with the disk: from now on any part of it may survive.
    Started(u64, Arc<[Change]>),
    /// Reads see these changes from now on.
    Applied(u64, Arc<[Change]>),
    /// The write was answered.
    Ended(u64),
    /// The writes that had ended up to this count are durable.
    Flushed(u64),
    FlushFailed(u64),
}

/// What the disk holds, on its platter and in its cache.
#[derive(Clone, Default)]
struct Media {
    durable: BTreeMap<u64, Arc<[u8; BLOCK_BYTES]>>,
    /// Unflushed contents per block, the newest last.
    volatile: BTreeMap<u64, Vec<Version>>,
    /// Writes that are not over.
    unfinished: BTreeMap<u64, Arc<[Change]>>,
    /// Counts the applied parts.
    applied: u64,
    /// Counts the writes that are over.
    ended: u64,
}

#[derive(Clone)]
struct Version {
    write: u64,
    applied: u64,
    /// `None`: its write is not over, and no flush covers it.
    ended: Option<u64>,
    content: Content,
    /// A flush failed on it: no later flush makes it durable.
    is_doomed: bool,
}

impl Version {
    fn is_covered(&self, covers: u64) -> bool {
        self.ended.is_some_and(|ended| ended <= covers)
    }
}

impl Media {
    fn replay(&mut self, event: &Event) {
        match event {
            Event::Started(id, changes) => {
                self.unfinished.insert(*id, Arc::clone(changes));
            }
            Event::Applied(write, changes) => {
                self.applied += 1;
                for (block, content) in changes.iter() {
                    self.volatile.entry(*block).or_default().push(Version {
                        write: *write,
                        applied: self.applied,
                        ended: None,
                        content: content.clone(),
                        is_doomed: false,
                    });
                }
            }
            Event::Ended(id) => {
                self.ended += 1;
                let ended = self.ended;
                let changes = self.unfinished.remove(id).unwrap_or_default();
                for (block, _) in changes.iter() {
                    let versions = self.volatile.get_mut(block).into_iter().flatten();
                    for version in versions.filter(|version| version.write == *id) {
                        version.ended = Some(ended);
                    }
                }
            }
            Event::Flushed(covers) => self.settle(*covers),
            Event::FlushFailed(covers) => {
                for version in self.volatile.values_mut().flatten() {
                    version.is_doomed |= version.is_covered(*covers);
                }
            }
        }
    }

    fn settle(&mut self, covers: u64) {
        let mut durable = Vec::new();
        self.volatile.retain(|&block, versions| {
            let newest = versions
                .iter()
                .rposition(|version| version.is_covered(covers) && !version.is_doomed);
            if let Some(newest) = newest {
                let settled = versions.drain(..=newest).next_back();
                durable.extend(settled.map(|version| (block, version.content)));
            }
            !versions.is_empty()
        });
        for (block, content) in durable {
            self.set_durable(block, content);
        }
    }

    fn set_durable(&mut self, block: u64, content: Content) {
        match content {
            Some(content) => self.durable.insert(block, content),
            None => self.durable.remove(&block),
        };
    }

    /// What a read sees.
    fn current(&self, block: u64) -> Content {
        match self
            .volatile
            .get(&block)
            .and_then(|versions| versions.last())
        {
            Some(version) => version.content.clone(),
            None => self.durable.get(&block).cloned(),
        }
    }

    fn fill(&self, first: u64, target: &mut [u8]) {
        for (block, target) in (first..).zip(target.as_chunks_mut::<BLOCK_BYTES>().0) {
            match self.current(block) {
                Some(content) => target.copy_from_slice(content.as_slice()),
                None => target.fill(0),
            }
        }
    }

    /// Each write in flight happens up to some block; the cache stays.
    fn lose_process(&mut self, random: &mut SimRandom) {
        for (id, changes) in self.unfinished.clone() {
            let count = random.below(changes.len() as u64 + 1);
            let part = changes.get(..usize::try_from(count).unwrap_or(0));
            self.replay(&Event::Applied(id, part.unwrap_or_default().into()));
            self.replay(&Event::Ended(id));
        }
    }

    /// Only what is durable and some of the rest is left.
    fn lose_power(&mut self, random: &mut SimRandom, sector_bytes: usize) {
        let mut candidates: BTreeMap<u64, Vec<(u64, Content)>> = BTreeMap::new();
        for (block, versions) in std::mem::take(&mut self.volatile) {
            let versions = versions.into_iter();
            candidates
                .entry(block)
                .or_default()
                .extend(versions.map(|version| (version.applied, version.content)));
        }
        for (id, changes) in std::mem::take(&mut self.unfinished) {
            for (block, content) in changes.iter() {
                let candidates = candidates.entry(*block).or_default();
                candidates.push((u64::MAX - id, content.clone()));
            }
        }
        let survival = Survival::draw(random, self.applied);
        for (block, versions) in candidates {
            let old = self.durable.get(&block).cloned();
            let content = survival.choose(random, sector_bytes, old, &versions);
            self.set_durable(block, content);
        }
    }
}

/// How unflushed writes survive one power loss.
enum Survival {
    Nothing,
    Everything,
    /// Every sector is from any of the writes, or old.
    Sectors,
    /// Every block is.
    Blocks,
    /// A write, or the applied part of it, survives as a whole or not at all.
    Writes(u64),
    /// Only what was applied up to this count.
    Prefix(u64),
}

impl Survival {
    fn draw(random: &mut SimRandom, applied: u64) -> Self {
        match random.below(8) {
            0 => Self::Nothing,
            1 => Self::Everything,
            2 | 3 => Self::Sectors,
            4 => Self::Blocks,
            5 | 6 => Self::Writes(random.next()),
            _ => Self::Prefix(applied.saturating_sub(random.below(16))),
        }
    }

    /// The content of one block out of `old` and `versions`, each with the number of its write.
    fn choose(
        &self,
        random: &mut SimRandom,
        sector_bytes: usize,
        old: Content,
        versions: &[(u64, Content)],
    ) -> Content {
        let last_of = |is_kept: &dyn Fn(u64) -> bool| {
            let kept = versions.iter().rfind(|(write, _)| is_kept(*write));
            kept.map_or_else(|| old.clone(), |(_, content)| content.clone())
        };
        let any = |random: &mut SimRandom| {
            let pick = random.below(versions.len() as u64 + 1);
            let version = usize::try_from(pick)
                .ok()
                .and_then(|pick| versions.get(pick));
            version.map_or_else(|| old.clone(), |(_, content)| content.clone())
        };
        match self {
            Self::Nothing => old.clone(),
            Self::Everything => last_of(&|_| true),
            Self::Blocks => any(random),
            Self::Writes(seed) => {
                last_of(&|write| SimRandom::new(seed ^ write).next().is_multiple_of(2))
            }
            Self::Prefix(count) => last_of(&|write| write <= *count),
            Self::Sectors => {
                let mut bytes = [0; BLOCK_BYTES];
                let sectors = bytes.chunks_mut(sector_bytes.clamp(512, BLOCK_BYTES));
                for (index, sector) in sectors.enumerate() {
                    let start = index * sector.len();
                    let source = any(random);
                    let source = source
                        .as_ref()
                        .and_then(|from| from.get(start..start + sector.len()));
                    if let Some(source) = source {
                        sector.copy_from_slice(source);
                    }
                }
                content_of(&bytes)
            }
        }
    }
}

/// Numbers from a seed (SplitMix64): fast, and the same everywhere.
#[derive(Clone, Debug)]
pub struct SimRandom {
    state: u64,
}

impl SimRandom {
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    #[expect(
        clippy::should_implement_trait,
        reason = "it never ends and is no iterator"
    )]
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to `limit - 1`; 0 for a limit of 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next().checked_rem(limit).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
