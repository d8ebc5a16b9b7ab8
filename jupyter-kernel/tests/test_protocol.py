"""jupyter_kernel_test: the protocol, as Jupyter's own suite sees it."""

import os
import unittest

import jupyter_kernel_test as suite


class KlabTests(suite.KernelTests):
    kernel_name = "klab"
    language_name = "rust"
    file_extension = ".rs"
    code_hello_world = 'println!("hello, world")'
    code_stderr = 'eprintln!("error");'
    complete_code_samples = ["1 + 1", "fn f() {}", "let x = 3;"]
    incomplete_code_samples = ["fn f() {", "let s = \"abc", "foo("]
    invalid_code_samples = ["fn f() }", "let 3 = = 4;"]
    code_execute_result = [{"code": "1 + 2 + 3", "result": "6"}]
    code_display_data = [
        {"code": 'let shown = display(probes::cell::Bundle::text("x").with("text/html", "<b>x</b>"));', "mime": "text/html"}
    ]
    code_generate_error = 'panic!("no")'
    code_inspect_sample = "Vec::new"
    supported_history_operations = ("tail", "range", "search")
    code_history_pattern = "1?+?2*"

    def test_completion(self):
        """The suite wants the exact set, which is for rust-analyzer to say."""
        self.execute_helper(code="1 + 1")
        self.kc.complete("String::from_ut")
        reply = self.get_non_kernel_info_reply()
        self.assertIn("from_utf8", reply["content"]["matches"])


    @classmethod
    def setUpClass(cls):
        """The suite gives every reply 15 s; the first cell waits for the kernel's start on a busy machine."""
        super().setUpClass()
        cls.kc.execute_interactive("1", timeout=300, allow_stdin=False)


class Welcome(suite.IopubWelcomeTests):
    kernel_name = "klab"
    support_iopub_welcome = True


if __name__ == "__main__":
    unittest.main()
