package reference

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCommandsOf(t *testing.T) {
	const page = "Say `weftctl peers -o json` or `weftd is running` or `make x Y=z`.\n\n" +
		"<!-- example -->\n```\nweftd --a \\\n  --b   # why\n weftctl x 'a b' | make c && ssh -L 1 root@n weftctl ui\n" +
		"# weftctl gone\nweftctl config set - < f\n```\n" +
		"```\nSource   weftd doesn't answer\nweftd/  the daemon\n```\n" +
		"   <!-- run: test/e2e: TestX -->\n   ```\n   kubectl -n a exec P -- bin/weftctl plan\n   ```\n"
	const shell = "weftctl x 'a b' | make c && ssh -L 1 root@n weftctl ui"
	want := []Command{
		{"p", 1, false, "", "weftctl peers -o json", []string{"weftctl", "peers", "-o", "json"}},
		{"p", 1, false, "", "make x Y=z", []string{"make", "x", "Y=z"}},
		{"p", 4, true, "example", "weftd --a   --b", []string{"weftd", "--a", "--b"}},
		{"p", 4, true, "example", shell, []string{"weftctl", "x", "a b"}},
		{"p", 4, true, "example", shell, []string{"make", "c"}},
		{"p", 4, true, "example", shell, []string{"weftctl", "ui"}},
		{"p", 4, true, "example", "weftctl config set - < f", []string{"weftctl", "config", "set", "-"}},
		{"p", 16, true, "run: test/e2e: TestX", "kubectl -n a exec P -- bin/weftctl plan", []string{"weftctl", "plan"}},
	}
	if d := cmp.Diff(want, commandsOf("p", page)); d != "" {
		t.Errorf("(-want +have):\n%s", d)
	}
}
