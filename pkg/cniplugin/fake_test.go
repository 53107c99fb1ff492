package cniplugin_test

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakes are the names under which the test binary is a delegate.
func fakes() []string { return []string{"macvlan", "bridge"} }

// record is what a delegate was started with.
type record struct {
	Env   map[string]string
	Stdin string
}

const fakeResult = `{"cniVersion":"0.3.1","interfaces":[{"name":"made by a delegate"}],"dns":{}}` + "\n"

// fake is a delegate: it writes down what it is started with, beside itself,
// and fails if there is a file that says how.
func fake(dir, name string) int {
	stdin, err := io.ReadAll(os.Stdin)
	if err != nil {
		return 3
	}
	r := record{map[string]string{}, string(stdin)}
	for _, pair := range os.Environ() {
		if key, value, _ := strings.Cut(pair, "="); strings.HasPrefix(key, "CNI_") {
			r.Env[key] = value
		}
	}
	raw, err := json.Marshal(r)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+"."+os.Getenv("CNI_COMMAND")), raw, 0o600)
	}
	if err != nil {
		return 3
	}
	if how, err := os.ReadFile(filepath.Join(dir, "fail")); err == nil {
		fmt.Print(string(how))
		fmt.Fprintln(os.Stderr, "the delegate's last words")
		return 1
	}
	if os.Getenv("CNI_COMMAND") == "ADD" {
		fmt.Print(fakeResult)
	}
	return 0
}

// plugins is a directory with delegates in it, for CNI_PATH.
func plugins(t testing.TB, names ...string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range names {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// recorded reads what a delegate was last started with; none is the zero value.
func recorded(t testing.TB, dir, name, command string) (r record) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, name+"."+command))
	if os.IsNotExist(err) {
		return r
	}
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}
