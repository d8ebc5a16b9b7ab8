//! Tasks by parent.

use std::collections::{HashMap, HashSet};

use serde::ser::{Serialize, Serializer};

use super::{Task, Tasks};
use crate::{Listing, Missing};

/// A task and its children.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TaskNode {
    /// The task.
    #[serde(flatten)]
    pub task: Task,
    /// Its children, as the list had them.
    pub children: Vec<Self>,
}

/// All processes by parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskTree {
    /// Tasks whose parent is not in the list: `init` and `kthreadd`, the children of the idle task.
    pub roots: Vec<TaskNode>,
    /// Parts that could not be read, each with the reason.
    pub missing: Vec<Missing>,
}

impl Serialize for TaskTree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (items, missing) = (self.roots.clone(), self.missing.clone());
        Listing { items, missing }.serialize(serializer)
    }
}

impl TaskTree {
    /// Sorts tasks by parent. Every task comes up exactly once, also with wrong parents.
    #[must_use]
    pub fn new(tasks: Tasks) -> Self {
        let missing = tasks.missing.clone();
        let known: HashSet<i32> = tasks.iter().map(|task| task.tgid).collect();
        let mut children: HashMap<Option<i32>, Vec<Task>> = HashMap::new();
        for task in tasks {
            let parent = task
                .ppid
                .filter(|ppid| known.contains(ppid) && *ppid != task.tgid);
            children.entry(parent).or_default().push(task);
        }
        let roots = children.remove(&None).unwrap_or_default();
        let mut roots: Vec<TaskNode> = roots
            .into_iter()
            .map(|task| node(task, &mut children, 0))
            .collect();
        // The rest is deeper than any tree of processes, or hangs in a circle of parents: shown at the top.
        let mut left: Vec<Task> = children.into_values().flatten().collect();
        left.sort_by_key(|task| task.pid);
        roots.extend(left.into_iter().map(|task| TaskNode {
            task,
            children: Vec::new(),
        }));
        Self { roots, missing }
    }

    /// The tasks in the order of the tree, each with its depth: 0 for the roots.
    #[must_use]
    pub fn flat(&self) -> Vec<(usize, &Task)> {
        let mut flat = Vec::new();
        let mut work: Vec<(usize, &TaskNode)> =
            self.roots.iter().rev().map(|node| (0, node)).collect();
        while let Some((depth, node)) = work.pop() {
            flat.push((depth, &node.task));
            work.extend(node.children.iter().rev().map(|child| (depth + 1, child)));
        }
        flat
    }
}

/// Deeper nesting than this is cut: it is taken apart recursively.
const DEPTH: usize = 256;

fn node(task: Task, children: &mut HashMap<Option<i32>, Vec<Task>>, depth: usize) -> TaskNode {
    let below = if depth < DEPTH {
        children.remove(&Some(task.tgid)).unwrap_or_default()
    } else {
        Vec::new()
    };
    let below = below
        .into_iter()
        .map(|task| node(task, children, depth + 1))
        .collect();
    TaskNode {
        task,
        children: below,
    }
}

#[cfg(test)]
mod tests {
    use super::super::task::testing::task;
    use super::*;

    fn tree(pids: &[(i32, i32)]) -> Vec<(usize, i32)> {
        let tasks = pids.iter().map(|(pid, ppid)| task(*pid, *ppid)).collect();
        TaskTree::new(tasks)
            .flat()
            .into_iter()
            .map(|(depth, task)| (depth, task.pid))
            .collect()
    }

    #[test]
    fn children_follow_their_parents() {
        assert_eq!(
            tree(&[(1, 0), (2, 0), (3, 2), (9, 1), (4, 2), (10, 9)]),
            [(0, 1), (1, 9), (2, 10), (0, 2), (1, 3), (1, 4)]
        );
        assert_eq!(tree(&[]), []);
    }

    #[test]
    fn no_task_is_lost_whatever_its_parent_is() {
        // An orphan, its own parent, a circle, and a chain deeper than any real one.
        assert_eq!(
            tree(&[(5, 77), (6, 6), (7, 8), (8, 7)]),
            [(0, 5), (0, 6), (0, 7), (0, 8)]
        );
        let chain: Vec<(i32, i32)> = (1..1000).map(|pid| (pid, pid - 1)).collect();
        assert_eq!(tree(&chain).len(), 999);
    }
}
