//! Records as calls: each with its return, and events of tracepoints, typed.

use super::calls::{CallText, Traced, TracedCall};
use super::condition::Pushed;
use super::function::{Function, Param};
use super::member::{self, Member};
use super::pairs::{Pair, pairs};
use super::record::Recorded;
use super::stacks::Stacker;
use super::text;
use crate::base::text_of;
use crate::debug::arguments::{Argument, Passed, is_composite, read_out};
use crate::debug::{Ended, Return};
use crate::kernel::Kernel;
use crate::kernel::btf::{Kind as Types, TypeId};
use crate::kmod::call::CallRecord;
use crate::kmod::ring::{Kind, RECORD};
use crate::memory::GuestVirt;
use crate::object::{Object, Value};
use crate::{Error, ErrorKind, Result};

/// Functions and conditions that were asked for.
pub(super) struct Asked<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) functions: &'a [Function],
    pub(super) condition: Option<&'a str>,
    /// Parts that the guest has seen to, of each function.
    pub(super) pushed: &'a [Pushed],
}

impl Asked<'_> {
    /// Makes calls of records.
    pub(super) fn traced(&self, recorded: Recorded, ended: Ended) -> Result<Traced> {
        let Recorded {
            events,
            mut tally,
            gaps,
        } = recorded;
        let mut stacker = Stacker::new(self.kernel);
        let whole = tally.lost == 0 && tally.missed == 0 && tally.left_out == 0;
        let mut calls = Vec::new();
        for pair in pairs(events) {
            let at = pair.call.record.address();
            let mut each = self.functions.iter().zip(self.pushed);
            let Some((function, pushed)) = each.find(|(function, _)| function.at.0 == at) else {
                continue;
            };
            let decoder = Decoder {
                kernel: self.kernel,
                function,
            };
            if pair.call.record.is_undecided() {
                tally.undecided += 1;
                continue;
            }
            if let (Some(condition), false) = (self.condition, pushed.whole) {
                match decoder.meets(condition, &pair)? {
                    Some(true) => {}
                    Some(false) => {
                        tally.passed += 1;
                        continue;
                    }
                    None => {
                        tally.undecided += 1;
                        continue;
                    }
                }
            }
            let mut call = decoder.call(&pair, whole);
            call.stack = pair.stack.map(|stack| stacker.stack(&stack));
            calls.push(call);
        }
        let names = self.functions.iter().map(|function| function.name.clone());
        Ok(Traced {
            functions: names.collect(),
            points: self.functions.iter().filter(|one| one.point).count(),
            calls,
            gaps,
            tally,
            ended,
        })
    }
}

/// Checks that a condition can be evaluated for a function: its names are known.
pub(super) fn check(kernel: &Kernel, function: &Function, condition: &str) -> Result<()> {
    let decoder = Decoder { kernel, function };
    let retval = (!function.point).then_some(0);
    let locals = decoder.locals(&CallRecord::from_bytes(&[0; RECORD]), retval);
    // As it is written, and as it is evaluated: with the copies in the place of the members.
    let said = kernel.eval_with(condition, &locals);
    let said = said.and_then(|_| kernel.eval_with(&decoder.with_copies(condition).0, &locals));
    match said {
        Err(error) if is_meant_wrong(&error) => {
            let names = function.params.iter().map(|one| one.name.as_str());
            let retval = (!function.point).then_some("retval");
            let others = retval.into_iter().chain(["pid", "tgid", "comm"]);
            let names: Vec<&str> = names.chain(others).collect();
            Err(Error::Invalid(format!(
                "{error}\n{} has {}",
                function.name,
                names.join(", ")
            )))
        }
        // The target of a pointer is another matter.
        _ => Ok(()),
    }
}

/// Meaning of a function's records.
pub(super) struct Decoder<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) function: &'a Function,
}

impl Decoder<'_> {
    /// The call; `whole` says that a return which is not there has not happened.
    pub(super) fn call(&self, pair: &Pair, whole: bool) -> TracedCall {
        let record = &pair.call.record;
        let each = self.function.params.iter().enumerate();
        let args = each.map(|(index, param)| Argument {
            name: param.name.clone(),
            ty: param.ty.clone(),
            value: self.argument(index, param, &record.args),
        });
        TracedCall {
            time: record.entered,
            cpu: pair.call.cpu,
            context: record.context(),
            pid: record.pid,
            tgid: record.tgid,
            comm: comm(record),
            function: self.function.name.clone(),
            point: self.function.point,
            members: self.members(record),
            stack: None,
            args: args.collect(),
            text: self.text(record),
            duration: pair
                .returned
                .map(|returned| returned.time.saturating_sub(record.entered)),
            returned: match (&pair.returned, whole) {
                _ if self.function.point => Return::Void,
                (Some(returned), _) => self.returned(returned.value),
                (None, true) => Return::Pending,
                (None, false) => Return::Unknown("not seen: records were lost".to_owned()),
            },
        }
    }

    /// The text that was copied, of the argument that leads to it.
    fn text(&self, record: &CallRecord) -> Option<CallText> {
        let plan = self.function.text.as_ref()?;
        let fetched = member::bytes_of(&self.function.members);
        let (text, whole) = text::of(plan, record, fetched)?;
        Some(CallText {
            arg: self.function.params.get(plan.param)?.name.clone(),
            text,
            whole,
        })
    }

    /// The members that were copied. A return has none.
    fn members(&self, record: &CallRecord) -> Vec<Argument> {
        let Some(prototype) = self.function.prototype.as_ref() else {
            return Vec::new();
        };
        let btf = &prototype.btf;
        let members = self.function.members.iter().enumerate();
        let of = |(index, member): (usize, &Member)| Argument {
            name: member.path.clone(),
            ty: btf
                .declarator(member.ty, "")
                .unwrap_or_else(|error| error.to_string()),
            value: match record.kind() {
                Some(Kind::Return) => Value::Fault("the record of the call was lost".to_owned()),
                _ => member.value(self.kernel, btf, record, index),
            },
        };
        members.map(of).collect()
    }

    /// An expression with names for the members that were copied, and which these are.
    fn with_copies(&self, expression: &str) -> (String, Vec<usize>) {
        let (mut text, mut used) = (expression.to_owned(), Vec::new());
        // From the end, so that the places before stay.
        for range in member::paths(expression).into_iter().rev() {
            let path = &expression[range.clone()];
            let mut members = self.function.members.iter();
            if let Some(index) = members.position(|member| member.path == path) {
                text.replace_range(range, &copy(index));
                used.push(index);
            }
        }
        (text, used)
    }

    fn argument(&self, index: usize, param: &Param, words: &[u64; 6]) -> Value {
        let word = match param.place {
            Passed::Registers(register, 1) => words.get(register).copied(),
            Passed::Registers(..) => return Value::Fault("in two registers".to_owned()),
            Passed::Stack(_) => return Value::Fault("on the stack".to_owned()),
        };
        let word = word.unwrap_or_default();
        // It may point to another text by now.
        if param.chars {
            return Value::Pointer {
                ty: param.ty.clone(),
                at: GuestVirt(word),
                target: None,
            };
        }
        read_out(self.object(index, word))
    }

    fn object(&self, index: usize, word: u64) -> Result<Object> {
        let known = self.function.prototype.as_ref();
        let typed = known.and_then(|prototype| Some((prototype, prototype.parameters.get(index)?)));
        let Some((prototype, (_, ty))) = typed else {
            return Err(Error::Absent("BTF has no such parameter".to_owned()));
        };
        Object::of_register(self.kernel, &prototype.btf, *ty, word)
    }

    fn returned(&self, value: u64) -> Return {
        match self.result(value) {
            Ok(None) => Return::Void,
            // A `char *` may lead to another text by now.
            Ok(Some((object, true))) => Return::Value(Value::Pointer {
                ty: object.type_name(),
                at: GuestVirt(value),
                target: None,
            }),
            Ok(Some((object, false))) => Return::Value(read_out(Ok(object))),
            Err(error) => Return::Unknown(error.to_string()),
        }
    }

    /// The value returned, and whether it points to characters; `None` for a function that returns nothing.
    fn result(&self, value: u64) -> Result<Option<(Object, bool)>> {
        let Some(prototype) = &self.function.prototype else {
            return Err(Error::Unsupported(format!(
                "BTF has no type of it: rax is {value:#x}"
            )));
        };
        let (btf, ty) = (&prototype.btf, prototype.returns);
        if btf.resolve(ty)?.id == TypeId::VOID {
            return Ok(None);
        }
        if is_composite(prototype, ty)? && btf.size_of(ty)?.is_none_or(|size| size > 8) {
            return Err(Error::Unsupported(
                "a structure of several words".to_owned(),
            ));
        }
        let object = Object::of_register(self.kernel, btf, ty, value)?;
        Ok(Some((object, text::is_chars(btf, ty))))
    }

    /// Tells whether a condition is not 0; `None` where what it asks for cannot be read any more. Of a call that has
    /// not returned, one that asks for `retval` is 0.
    fn meets(&self, condition: &str, pair: &Pair) -> Result<Option<bool>> {
        let retval = pair.returned.map(|returned| returned.value);
        if retval.is_none() && mentions(condition, "retval") {
            return Ok(Some(false));
        }
        let locals = self.locals(&pair.call.record, retval);
        let (condition, used) = self.with_copies(condition);
        let is_there = |index: &usize| locals.iter().any(|(name, _)| *name == copy(*index));
        if !used.iter().all(is_there) {
            return Ok(None);
        }
        match self
            .kernel
            .eval_with(&condition, &locals)
            .and_then(|value| value.u64())
        {
            Ok(value) => Ok(Some(value != 0)),
            Err(error) if is_meant_wrong(&error) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// The names that a condition may use, those of the arguments first.
    fn locals(&self, record: &CallRecord, retval: Option<u64>) -> Vec<(String, Object)> {
        let kernel = self.kernel;
        let mut locals = Vec::new();
        let mut add = |name: &str, object: Result<Object>| {
            if let Ok(object) = object
                && locals.iter().all(|(known, _)| known != name)
            {
                locals.push((name.to_owned(), object));
            }
        };
        // It may be another text by now.
        if let Some(text) = self.text(record)
            && self.function.text.is_some_and(|plan| plan.offset.is_none())
        {
            add(&text.arg, Object::text(kernel, &text.text));
        }
        for (index, param) in self.function.params.iter().enumerate() {
            if let Passed::Registers(register, 1) = param.place {
                let word = record.args.get(register).copied().unwrap_or_default();
                add(&param.name, self.object(index, word));
            }
        }
        if let Some(Ok(Some((object, _)))) = retval.map(|value| self.result(value)) {
            add("retval", Ok(object));
        }
        let int = kernel.btf().map(|btf| (btf, btf.find(Types::Int, "int")));
        if let Ok((btf, Some(int))) = int {
            for (name, value) in [("pid", record.pid), ("tgid", record.tgid)] {
                add(name, Object::of_register(kernel, btf, int, value.into()));
            }
        }
        add("comm", Object::text(kernel, &comm(record)));
        if let (Some(prototype), true) = (
            &self.function.prototype,
            record.kind() != Some(Kind::Return),
        ) {
            for (index, member) in self.function.members.iter().enumerate() {
                if let Some(object) = member.object(kernel, &prototype.btf, record, index) {
                    add(&copy(index), object);
                }
            }
        }
        locals
    }
}

/// `current->comm`.
fn comm(record: &CallRecord) -> String {
    comm_of(&record.comm)
}

/// Characters up to the 0.
pub(super) fn comm_of(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next();
    text_of(text.unwrap_or_default())
}

/// The name in expressions of a member that was copied.
fn copy(index: usize) -> String {
    format!("klab_copy_{index}")
}

/// Tells whether an expression is at fault, and not what it asks for.
fn is_meant_wrong(error: &Error) -> bool {
    let unread = [ErrorKind::Unmapped, ErrorKind::LeftOut, ErrorKind::Torn];
    !unread.contains(&error.kind())
}

/// Tells whether a name stands in an expression.
fn mentions(expression: &str, name: &str) -> bool {
    let mut words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.any(|word| word == name)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::debug::function::prototype;
    use crate::ftrace::calls::TraceTally;
    use crate::ftrace::function::tests::typed;
    use crate::kernel::btf::build::Builder;
    use crate::kmod::call::{COMM, TEXT_WHOLE};
    use crate::kmod::reader::{CpuTally, Event, InSlot};
    use crate::kmod::ring::{Context, commit};
    use crate::memory::{AddressSpace, FakeMemory};
    use crate::view::View;

    /// `int f(const char *name, unsigned long count, void *at)`.
    fn ground() -> (Kernel, Function) {
        let mut b = Builder::new();
        let int = b.int("int", 4, true);
        let ulong = b.int("long unsigned int", 8, false);
        let char = b.int("char", 1, true);
        let constant = b.alias(Types::Const, "", char);
        let name = b.pointer(constant);
        let at = b.pointer(TypeId::VOID);
        b.function("f", int, &[("name", name), ("count", ulong), ("at", at)]);
        let space = AddressSpace::identity(Arc::new(FakeMemory::new([])));
        let kernel = Kernel::with_btf("7.3.4-test", space, b.finish().unwrap());
        let prototype = prototype(&kernel, "f", None).unwrap().unwrap();
        (kernel, typed(prototype))
    }

    fn event(kind: Kind, time: u64, entered: u64, value: u64) -> Event<CallRecord> {
        let mut comm = [0; COMM];
        comm[..2].copy_from_slice(b"dd");
        let mut text = [0; 80];
        text[..4].copy_from_slice(b"/etc");
        Event {
            cpu: 1,
            sequence: time,
            record: CallRecord {
                commit: commit(time, kind as u8, Context::Task as u8, 4, TEXT_WHOLE),
                time,
                args: [0x1000, 4097, 0, 0, 0, 0],
                value,
                entered,
                site: 0x8100_0000,
                pid: 7,
                tgid: 6,
                unread: 0,
                comm,
                text,
            },
        }
    }

    fn traced(condition: Option<&str>, whole: bool, events: Vec<Event<CallRecord>>) -> Traced {
        let (kernel, function) = ground();
        let pushed = Pushed {
            whole,
            ..Pushed::default()
        };
        let asked = Asked {
            kernel: &kernel,
            functions: &[function],
            condition,
            pushed: &[pushed],
        };
        asked
            .traced(
                Recorded {
                    events,
                    tally: TraceTally::default(),
                    gaps: Vec::new(),
                },
                Ended::Look,
            )
            .unwrap()
    }

    #[test]
    fn a_call_has_its_return() {
        // One within the other, a return whose call was lost, and one that has not returned.
        let events = vec![
            event(Kind::Call, 10, 10, 0),
            event(Kind::Call, 20, 20, 0),
            event(Kind::Return, 25, 20, 0xffff_fffe),
            event(Kind::Return, 40, 10, 4096),
            event(Kind::Return, 45, 5, 1),
            event(Kind::Call, 50, 50, 0),
        ];
        let all = traced(None, true, events.clone());
        let told: Vec<(u64, Option<u64>)> = all
            .calls
            .iter()
            .map(|one| (one.time, one.duration))
            .collect();
        assert_eq!(
            told,
            [(5, Some(40)), (10, Some(30)), (20, Some(5)), (50, None)]
        );
        assert_eq!(all.calls[2].returned, Return::Value(Value::Int(-2)));
        assert_eq!(all.calls[3].returned, Return::Pending);
        let text = all.text();
        assert!(
            text.contains(r#"f(name="/etc", count=4097, at=0x0)"#),
            "{text}"
        );
        assert!(text.contains("4 calls of 1 function"), "{text}");
        let depths: Vec<usize> = all.tree().calls.iter().map(|(depth, _)| *depth).collect();
        assert_eq!(depths, [0, 1, 2, 0]);
        assert_eq!(all.latencies().functions[0].histogram.get(&32), Some(&1));
        assert_eq!(all.count_by(|call| call.pid).counts, [("7".to_owned(), 4)]);
        let failed = traced(Some("retval < 0 && pid == 7"), false, events.clone());
        assert_eq!((failed.calls.len(), failed.tally.passed), (1, 3));
        let named = traced(
            Some(r#"comm == "dd" && name == "/etc""#),
            false,
            events.clone(),
        );
        // The text of a lost call is lost too.
        assert_eq!((named.calls.len(), named.tally.undecided), (3, 1));
        let mut lossy = named.clone();
        lossy.tally.lost = 7;
        lossy.tally.cpus = vec![CpuTally {
            cpu: 3,
            delivered: 5,
            lost: 7,
        }];
        let counts = lossy.count_by(|call| call.cpu);
        let views = [
            lossy.text(),
            lossy.tree().text(),
            lossy.latencies().text(),
            counts.text(),
        ];
        for text in views {
            assert!(text.contains("7 of 12 records of CPU 3 LOST"), "{text}");
            assert!(text.contains("1 calls for which"), "{text}");
        }
        let none = traced(Some("comm == \"cat\""), false, events);
        assert_eq!((none.calls.len(), none.tally.passed), (0, 4));
    }

    #[test]
    fn a_condition_that_means_nothing_is_refused() {
        let (kernel, function) = ground();
        assert!(check(&kernel, &function, "count > 1 && retval == 0").is_ok());
        assert!(check(&kernel, &function, "*(int *)at == 1").is_ok());
        assert!(check(&kernel, &function, r#"comm == "dd" && name == "/etc""#).is_ok());
        let wrong = check(&kernel, &function, "cuont > 1")
            .unwrap_err()
            .to_string();
        assert!(wrong.contains("name, count, at"), "{wrong}");
    }

    /// Whatever lies in the rings: no panic, no more calls than records, and every face can be drawn.
    #[test]
    fn any_bytes_are_calls_or_nothing() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for round in 0..200 {
            let mut events = Vec::new();
            for sequence in 0..64 {
                let mut bytes = [0; RECORD];
                for word in bytes.chunks_exact_mut(8) {
                    word.copy_from_slice(&next().to_le_bytes());
                }
                let mut record = CallRecord::from_slot(&bytes);
                if round % 4 != 0 {
                    record.commit = record.commit & !(0xff << 32) | (8 + next() % 4) << 32;
                    record.site = 0x8100_0000;
                    record.pid &= 3;
                    record.entered &= 7;
                }
                events.push(Event {
                    cpu: (next() % 64) as u32,
                    sequence,
                    record,
                });
            }
            let count = events.len();
            let all = traced(None, true, events);
            assert!(all.calls.len() <= count);
            assert!(round % 4 == 0 || !all.calls.is_empty());
            let drawn = [
                all.text(),
                all.tree().text(),
                all.latencies().text(),
                serde_json::to_string(&all).unwrap(),
                String::from_utf8(all.perfetto()).unwrap(),
            ];
            assert!(drawn.iter().all(|text| !text.is_empty()));
        }
    }
}
