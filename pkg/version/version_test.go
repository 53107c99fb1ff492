package version

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

func TestChoose(t *testing.T) {
	for name, c := range map[string]struct{ stamped, module, want string }{
		"stamped wins":                          {"v1.2.3-4-gabc", "v1.2.3", "v1.2.3-4-gabc"},
		"go install knows the module's version": {"", "v1.2.3", "v1.2.3"},
		"a plain go build knows nothing":        {"", "(devel)", "unknown"},
		"no build information at all":           {"", "", "unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			if have := choose(c.stamped, c.module); have != c.want {
				t.Errorf("want %q, have %q", c.want, have)
			}
		})
	}
}

// The path after -X in the Makefile names a variable in text: if either is
// renamed alone, the linker says nothing and every build is "unknown".
func TestTheLinkerCanStampTheVersion(t *testing.T) {
	const flag = "-X github.com/weftnet/weft/pkg/version.Version=v9.9.9"
	if Version != "" { // the child
		if !strings.HasPrefix(String(), "v9.9.9 ("+runtime.Version()) {
			t.Fatalf("stamped as v9.9.9, but String gives %q", String())
		}
		return
	}
	out, err := exec.Command("go", "test", "-run", t.Name(), "-ldflags", flag, ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(makefile), strings.TrimSuffix(flag, "v9.9.9")) {
		t.Errorf("the Makefile doesn't stamp with %s", flag)
	}
}
