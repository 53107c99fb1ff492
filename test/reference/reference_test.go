package reference

import "testing"

func TestReplaced(t *testing.T) {
	const page = "a\n<!-- generated: x -->\nold\n<!-- end of x -->\nb\n"
	have, ok := replaced([]byte(page), "x", "new\n\n")
	if want := "a\n<!-- generated: x -->\nnew\n<!-- end of x -->\nb\n"; !ok || string(have) != want {
		t.Errorf("have %q, %v", have, ok)
	}
	if again, ok := replaced(have, "x", "new"); !ok || string(again) != string(have) {
		t.Errorf("the second time: %q, %v", again, ok)
	}
	for name, page := range map[string]string{
		"another name": "<!-- generated: y -->\n<!-- end of y -->\n",
		"no end":       "<!-- generated: x -->\nold\n",
		"no beginning": "<!-- end of x -->\n",
	} {
		if have, ok := replaced([]byte(page), "x", "new"); ok {
			t.Errorf("%s: have %q", name, have)
		}
	}
}

func TestTable(t *testing.T) {
	have := Table([]string{"a", "b"}, [][]string{{"x|y", ""}, {Code(""), Code("z")}})
	if want := "| a | b |\n|---|---|\n| x\\|y | |\n| | `z` |\n"; have != want {
		t.Errorf("have\n%swant\n%s", have, want)
	}
}
