//! Members of what an argument points to, copied when a record is made: `next->pid`, `file->f_mode`.
//!
//! They are copied in the guest and not read from here afterwards, since by then the task may be gone and its memory another's.

use super::decode::comm_of;
use super::function::Function;
use crate::debug::arguments::{Passed, read_out};
use crate::kernel::Kernel;
use crate::kernel::btf::{Btf, Field, Kind, Shape, TypeId};
use crate::kmod::call::{CallRecord, FETCHES, Fetch, TEXT};
use crate::object::{Object, Value};
use crate::{Error, Result};

/// The members of a task that are copied without being asked for.
const OF_TASK: [&str; 2] = ["comm", "pid"];
/// Bytes of the longest text.
const LONGEST: u64 = 64;

/// A member of what an argument points to.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// As C has it.
    pub(super) path: String,
    /// The register of the argument.
    pub(super) register: u8,
    /// Its place behind the argument, in bytes.
    pub(super) offset: u16,
    /// Its bytes.
    pub(super) len: u8,
    /// Bytes of the members before it in a record.
    before: usize,
    /// Its type.
    pub(super) ty: TypeId,
    /// True if it is an array of characters.
    pub(super) chars: bool,
}

/// The members that are copied at each call: those that are asked for, those in the condition, and of tasks name and PID. What
/// has no room is left out, unless it is asked for.
pub(super) fn plan(
    function: &Function,
    asked: &[String],
    condition: Option<&str>,
) -> Result<Vec<Member>> {
    let mut members = Vec::new();
    for path in asked.iter().filter(|path| is_of(function, path)) {
        if !add(&mut members, find(function, path)?) {
            return Err(Error::Invalid(format!(
                "{path} has no room: a record of {} has {TEXT} bytes for {FETCHES} members at most",
                function.name
            )));
        }
    }
    let condition = condition.unwrap_or_default();
    for range in paths(condition) {
        if let Ok(member) = find(function, &condition[range]) {
            add(&mut members, member);
        }
    }
    for (param, ty) in function.params.iter().zip(types(function)) {
        if pointee(function, ty)?.is_some_and(|(_, name)| name == "task_struct") {
            for member in OF_TASK {
                if let Ok(member) = find(function, &format!("{}->{member}", param.name)) {
                    add(&mut members, member);
                }
            }
        }
    }
    Ok(members)
}

/// Tells whether the function has the argument that a path begins with.
pub(super) fn is_of(function: &Function, path: &str) -> bool {
    let name = path.split("->").next().unwrap_or_default();
    function.params.iter().any(|param| param.name == name)
}

fn add(members: &mut Vec<Member>, mut member: Member) -> bool {
    if members.iter().any(|known| known.path == member.path) {
        return true;
    }
    let before: usize = members.iter().map(|known| usize::from(known.len)).sum();
    if members.len() == FETCHES || before + usize::from(member.len) > TEXT {
        return false;
    }
    member.before = before;
    members.push(member);
    true
}

/// The member of a path: a number or text behind one pointer.
pub(super) fn find(function: &Function, path: &str) -> Result<Member> {
    let invalid = |why: String| Error::Invalid(format!("`{path}` of {}: {why}", function.name));
    let (name, rest) = path
        .split_once("->")
        .ok_or_else(|| invalid("it is no member of what an argument points to".to_owned()))?;
    if rest.contains("->") {
        return Err(invalid("one pointer is followed, and no second".to_owned()));
    }
    let index = function.params.iter().position(|param| param.name == name);
    let index = index.ok_or_else(|| invalid(format!("there is no argument {name}")))?;
    let Passed::Registers(register, 1) = function.params[index].place else {
        return Err(invalid(format!("{name} is not recorded")));
    };
    let ty = types(function).nth(index);
    let prototype = function.prototype.as_ref();
    let (Some(ty), Some(prototype)) = (ty, prototype) else {
        return Err(invalid("BTF has no types of it".to_owned()));
    };
    let btf = &prototype.btf;
    let Some((to, _)) = pointee(function, ty)? else {
        return Err(invalid(format!("{name} points to no structure")));
    };
    let field = btf
        .path(to, rest)?
        .map_err(|step| invalid(format!("there is no member {step}")))?;
    let (len, chars) = readable(btf, &field)?
        .ok_or_else(|| invalid("it is neither a number, a pointer nor a text".to_owned()))?;
    let offset = u16::try_from(field.offset());
    Ok(Member {
        path: path.to_owned(),
        register: u8::try_from(register).unwrap_or_default(),
        offset: offset.map_err(|_| invalid("it lies too far behind".to_owned()))?,
        len,
        before: 0,
        ty: field.ty,
        chars,
    })
}

/// Bytes of a member that can be copied, and whether it is text.
fn readable(btf: &Btf, field: &Field) -> Result<Option<(u8, bool)>> {
    if field.bits != 0 {
        return Ok(None);
    }
    Ok(match btf.shape(field.ty)? {
        Shape::Int { size, .. } if size <= 8 => Some((size, false)),
        Shape::Ptr(_) => Some((8, false)),
        Shape::Array { element, count } if u64::from(count) <= LONGEST => {
            let element = btf.resolve(element)?;
            let char = element.kind == Kind::Int && element.name().ends_with("char");
            char.then(|| (u8::try_from(count).unwrap_or_default(), true))
        }
        _ => None,
    }
    .filter(|(len, _)| *len > 0))
}

/// The structure that a pointer points to, and its name.
fn pointee(function: &Function, ty: TypeId) -> Result<Option<(TypeId, &str)>> {
    let Some(prototype) = &function.prototype else {
        return Ok(None);
    };
    let pointer = prototype.btf.resolve(ty)?;
    let Some(to) = pointer.target().filter(|_| pointer.kind == Kind::Ptr) else {
        return Ok(None);
    };
    let to = prototype.btf.resolve(to)?;
    Ok(to.is_composite().then(|| (to.id, to.name())))
}

/// The types of the parameters.
fn types(function: &Function) -> impl Iterator<Item = TypeId> + '_ {
    let prototype = function.prototype.iter();
    prototype.flat_map(|prototype| prototype.parameters.iter().map(|(_, ty)| *ty))
}

/// Places of what looks like `next->se.vruntime` in an expression.
pub(super) fn paths(expression: &str) -> Vec<std::ops::Range<usize>> {
    let mut all = Vec::new();
    let (mut at, bytes) = (0, expression.as_bytes());
    while at < bytes.len() {
        match bytes[at] {
            // Behind the text; a quote within it follows a backslash.
            quote @ (b'"' | b'\'') => {
                at += 1;
                while at < bytes.len() && bytes[at] != quote {
                    at += 1 + usize::from(bytes[at] == b'\\');
                }
                at += 1;
            }
            byte if byte == b'_' || byte.is_ascii_alphanumeric() => {
                let end = path_end(expression, at);
                if expression[at..end].contains("->") {
                    all.push(at..end);
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    all
}

/// End of the name at `at` and of the members behind it.
pub(super) fn path_end(expression: &str, at: usize) -> usize {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let name_end = |at: usize| {
        let rest = &expression[at..];
        at + rest.find(|c| !is_name(c)).unwrap_or(rest.len())
    };
    let mut end = name_end(at);
    loop {
        let rest = &expression[end..];
        let step = ["->", "."].iter().find(|step| rest.starts_with(**step));
        let Some(next) = step.map(|step| end + step.len()) else {
            return end;
        };
        let name = name_end(next);
        if name == next {
            return end;
        }
        end = name;
    }
}

impl Member {
    /// What the module is told.
    pub(super) fn fetch(&self) -> Fetch {
        Fetch {
            arg: self.register,
            len: self.len,
            offset: self.offset.into(),
            ..Fetch::NONE
        }
    }

    /// Its bytes in a record; `None` where they could not be read.
    fn bytes<'a>(&self, record: &'a CallRecord, index: usize) -> Option<&'a [u8]> {
        record.member(index, self.before, self.len.into())
    }

    /// Member number `index` of a record as an object; `None` where it could not be read.
    pub(super) fn object(
        &self,
        kernel: &Kernel,
        btf: &std::sync::Arc<Btf>,
        record: &CallRecord,
        index: usize,
    ) -> Option<Result<Object>> {
        let bytes = self.bytes(record, index)?;
        if self.chars {
            return Some(Object::text(kernel, &comm_of(bytes)));
        }
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        let word = u64::from_le_bytes(word);
        Some(Object::of_register(kernel, btf, self.ty, word))
    }

    /// Its value.
    pub(super) fn value(
        &self,
        kernel: &Kernel,
        btf: &std::sync::Arc<Btf>,
        record: &CallRecord,
        index: usize,
    ) -> Value {
        match (self.chars, self.bytes(record, index)) {
            (_, None) => Value::Fault("its memory could not be read then".to_owned()),
            (true, Some(bytes)) => Value::Text(comm_of(bytes)),
            (false, Some(_)) => {
                let object = self.object(kernel, btf, record, index);
                read_out(object.unwrap_or_else(|| Err(Error::Absent(self.path.clone()))))
            }
        }
    }
}

/// Bytes of all members in a record.
pub(super) fn bytes_of(members: &[Member]) -> usize {
    members.iter().map(|member| usize::from(member.len)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_where_they_are_meant() {
        for (expression, expected) in [
            ("next->pid == 1", vec!["next->pid"]),
            (r#"a->b.c>d && "x->y" == e->f"#, vec!["a->b.c", "e->f"]),
            ("a - >b, c->", vec![]),
            ("count > 4096", vec![]),
            (r#"'\'' == a->b->c[1]"#, vec!["a->b->c"]),
        ] {
            let found: Vec<&str> = paths(expression)
                .into_iter()
                .map(|range| &expression[range])
                .collect();
            assert_eq!(found, expected, "{expression}");
        }
    }
}
