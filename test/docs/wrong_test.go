package docs

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/subnet"
)

const wrongPage = "Documentation/wrong-configurations.md"

var bless = flag.Bool("bless", false, "write the generated parts of the pages anew")

// mistake is a line of the page: what is wrong, how it was given, and all that
// is said about it.
type mistake struct{ what, given, answer string }

// TestWrongConfigurations holds the page to what the programs say. With -bless
// it is written anew: go test ./test/docs -run TestWrongConfigurations -bless
func TestWrongConfigurations(t *testing.T) {
	blocks := map[string][]mistake{
		"network": refusedConfigs(t), "node": refusedByNode(t), "running": refusedWhileRunning(t), "program": refusedByProgram(t),
		"followed": followedInPart(t), "cleanup": refusedByCleanup(t),
	}
	page, n := read(t, wrongPage), 0
	want := page
	for name, mistakes := range blocks {
		n += len(mistakes)
		begin, end := "<!-- "+name+" -->\n", "<!-- end of "+name+" -->"
		before, rest, ok := strings.Cut(want, begin)
		_, after, ended := strings.Cut(rest, end)
		if !ok || !ended {
			t.Fatalf("no place for %q on the page", name)
		}
		want = before + begin + table(mistakes) + end + after
	}
	if n < 30 {
		t.Errorf("only %d mistakes", n)
	}
	if *bless {
		if err := os.WriteFile(filepath.Join(root, wrongPage), []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if d := cmp.Diff(want, page); d != "" {
		t.Errorf("look at the difference, then write the page anew with -bless (-weft says +page):\n%s", d)
	}
}

func table(mistakes []mistake) string {
	var b strings.Builder
	b.WriteString("\n| what is wrong | given | answer |\n|---|---|---|\n")
	for _, m := range mistakes {
		var lines []string
		for line := range strings.Lines(m.answer) {
			lines = append(lines, inCode(strings.TrimSpace(line)))
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", m.what, inCode(m.given), strings.Join(lines, "<br>"))
	}
	return b.String() + "\n"
}

// inCode is a text as code in a table, whatever it holds.
func inCode(s string) string {
	s = strings.ReplaceAll(strings.ReplaceAll(s, "\n", " "), "|", "\\|")
	if strings.Contains(s, "`") {
		return "`` " + s + " ``"
	}
	return "`" + s + "`"
}

func TestInCode(t *testing.T) {
	for s, want := range map[string]string{"a": "`a`", "a|b": "`a\\|b`", "a\nb": "`a b`", "`(`": "`` `(` ``"} {
		if have := inCode(s); have != want {
			t.Errorf("%q: %s, want %s", s, have, want)
		}
	}
}

// refusedConfigs are what weftctl config set refuses to write, and weftd to take.
func refusedConfigs(t *testing.T) []mistake {
	t.Helper()
	const vxlan = `"Backend": {"Type": "vxlan"}}`
	four := func(rest string) string { return `{"Network": "10.42.0.0/16", ` + rest + vxlan }
	six := func(rest string) string {
		return `{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd42::/48", ` + rest + vxlan
	}
	all := []mistake{
		{what: "nothing at all", given: " "},
		{what: "not JSON: a comma too many", given: `{"Network": "10.42.0.0/16",}`},
		{what: "cut short", given: `{"Network": "10.42.0.0/16"`},
		{what: "a list", given: `["10.42.0.0/16"]`},
		{what: "no network", given: `{` + vxlan},
		{what: "no IPv6 network", given: `{"EnableIPv6": true, "Network": "10.42.0.0/16", ` + vxlan},
		{what: "no family", given: `{"EnableIPv4": false, "Network": "10.42.0.0/16", ` + vxlan},
		{what: "a boolean in quotes", given: four(`"EnableIPv6": "true", `)},
		{what: "a network without a length", given: `{"Network": "10.42.0.0", ` + vxlan},
		{what: "IPv6 as `Network`", given: `{"Network": "fd42::/48", ` + vxlan},
		{
			what:  "IPv4 as `IPv6Network`",
			given: `{"EnableIPv6": true, "Network": "10.42.0.0/16", "IPv6Network": "10.43.0.0/16", ` + vxlan,
		},
		{what: "the whole world", given: `{"Network": "0.0.0.0/0", ` + vxlan},
		{what: "too small a network", given: `{"Network": "10.42.0.0/29", ` + vxlan},
		{
			what:  "too small an IPv6 network",
			given: `{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd42::/125", ` + vxlan,
		},
		{what: "subnets without hosts", given: four(`"SubnetLen": 31, `)},
		{what: "fewer than four subnets", given: four(`"SubnetLen": 17, `)},
		{what: "a length in quotes", given: four(`"SubnetLen": "24", `)},
		{what: "IPv6 subnets without hosts", given: six(`"IPv6SubnetLen": 127, `)},
		{what: "fewer than four IPv6 subnets", given: six(`"IPv6SubnetLen": 49, `)},
		{what: "a first subnet outside", given: four(`"SubnetMin": "10.43.0.0", `)},
		{what: "a first subnet off its boundary", given: four(`"SubnetMin": "10.42.1.7", `)},
		{what: "a last subnet outside", given: four(`"SubnetMax": "10.43.0.0", `)},
		{what: "the first above the last", given: four(`"SubnetMin": "10.42.9.0", "SubnetMax": "10.42.8.0", `)},
		{what: "a first IPv6 subnet off its boundary", given: six(`"IPv6SubnetMin": "fd42::1", `)},
		{what: "a last IPv6 subnet outside", given: six(`"IPv6SubnetMax": "fd43::", `)},
		{what: "an engine by name", given: four(`"EnableNFTables": "nft", `)},
		{what: "a backend by name", given: `{"Network": "10.42.0.0/16", "Backend": "vxlan"}`},
		{what: "a backend without a type", given: `{"Network": "10.42.0.0/16", "Backend": {}}`},
		{what: "two mistakes", given: `{"SubnetLen": 31, "Backend": {"Type": 1}, "Network": "10.42.0.0/16"}`},
	}
	for i, m := range all {
		_, err := subnet.ParseConfig([]byte(m.given))
		if err == nil {
			t.Fatalf("%s: no mistake: %s", m.what, m.given)
		}
		all[i].answer = err.Error()
	}
	return all
}

// refusedByProgram are command lines, variables and files that weftd ends for.
func refusedByProgram(t *testing.T) []mistake {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "weftd")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./cmd/weftd")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	file := func(content string) string { return "weftd.yaml: " + content }
	all := []mistake{
		{what: "a flag that there isn't", given: "--ifcae=eth0"},
		{what: "an argument that is none", given: "--ip-masq true"},
		{what: "no boolean", given: "--ip-masq=yes"},
		{what: "no number", given: "--healthz-port=http"},
		{what: "no port", given: "--healthz-port=65536"},
		{what: "no host beside the port", given: "--metrics-addr=9101"},
		{what: "a time without its unit", given: "--probe-interval=1"},
		{what: "no address", given: "--public-ip=eth0"},
		{what: "the other family", given: "--public-ip=2001:db8::1"},
		{what: "no expression", given: "--iface-regex=eth("},
		{what: "no level", given: "--log-level=loud"},
		{what: "no filter", given: "--vxlan-filter=on"},
		{what: "no format", given: "--log-format=xml"},
		{what: "no module", given: "--vmodule=node"},
		{what: "no place in the source", given: "--log_backtrace_at=node:1"},
		{what: "a margin of a day", given: "--subnet-lease-renew-margin=1440"},
		{what: "a network without the embedded store", given: "--network=10.42.0.0/16"},
		{what: "a variable that is no number", given: "FLANNELD_HEALTHZ_PORT=http"},
		{what: "a variable that is no boolean", given: "WEFTD_IP_MASQ=yes"},
		{what: "no file", given: "--config=nowhere.yaml"},
		{what: "a name that there isn't, in the file", given: file("ifcae: eth0")},
		{what: "a boolean that is none, in the file", given: file("ip-masq: yes")},
		{what: "a number in quotes, in the file", given: file("healthz-port: '8081'")},
		{what: "no YAML", given: file("iface: [")},
		{what: "a certificate without its key", given: "--etcd-certfile=c.pem"},
		{what: "a user without a password", given: "--etcd-username=weft"},
		{what: "two passwords", given: "--etcd-username=weft --etcd-password=a --etcd-password-file=b"},
		{what: "a password in a URL", given: "--etcd-endpoints=http://weft:secret@10.0.0.1:2379"},
		{what: "HTTP and HTTPS", given: "--etcd-endpoints=http://10.0.0.1:2379,https://10.0.0.2:2379"},
		{what: "a path in a URL", given: "--etcd-endpoints=http://10.0.0.1:2379/v2"},
		{what: "another scheme", given: "--etcd-endpoints=ftp://10.0.0.1:2379"},
		{what: "a prefix of nothing", given: "--etcd-prefix=./"},
		{what: "no password's file", given: "--etcd-username=weft --etcd-password-file=nowhere"},
		{what: "no authority's file", given: "--etcd-endpoints=https://10.0.0.1:2379 --etcd-cafile=nowhere.pem"},
		{
			what:  "an authority's file with something else",
			given: "--etcd-endpoints=https://10.0.0.1:2379 --etcd-cafile=weftd.yaml",
		},
		{
			what:  "plaintext for others",
			given: "--embedded-etcd --embedded-etcd-data=etcd --embedded-etcd-listen=192.0.2.1:2379",
		},
	}
	for i, m := range all {
		all[i].answer = runWrong(t, bin, m.given)
	}
	return all
}

// fromFile takes a mistake that is in a configuration file apart.
var fromFile = regexp.MustCompile(`^weftd\.yaml: (.*)$`)

// runWrong is what weftd says, with its exit status.
func runWrong(t *testing.T, bin, given string) string {
	t.Helper()
	dir := t.TempDir()
	content, args := "# nothing\n", strings.Fields(given)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin)
	cmd.Env = []string{"WEFTD_ETCD_ENDPOINTS=http://127.0.0.1:1"} // should it start after all, it finds no network
	switch m := fromFile.FindStringSubmatch(given); {
	case m != nil:
		content, args = m[1]+"\n", []string{"--config=weftd.yaml"}
	case !strings.HasPrefix(given, "-"):
		cmd.Env, args = append(cmd.Env, args...), nil
	}
	if err := os.WriteFile(filepath.Join(dir, "weftd.yaml"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Args, cmd.Dir, cmd.Stderr = append(cmd.Args, args...), dir, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() < 1 {
		t.Fatalf("%s: %v\n%s", given, err, &stderr)
	}
	_, answer, ok := strings.Cut("\n"+stderr.String(), "\nweftd: ")
	if !ok {
		t.Fatalf("%s: nothing is said:\n%s", given, &stderr)
	}
	answer = strings.TrimSuffix(strings.TrimSpace(answer), "\nSee weftd --help.")
	return fmt.Sprintf("%d: %s", exit.ExitCode(), answer)
}
