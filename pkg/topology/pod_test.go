package topology

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestMain lets the test binary be its own CNI plugin: libcni finds it under
// its name and tells by the environment what it wants.
func TestMain(m *testing.M) {
	if command := os.Getenv("CNI_COMMAND"); command != "" {
		if err := plugin(command); err != nil {
			fmt.Printf(`{"cniVersion":"1.0.0","code":100,"msg":%q}`, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// plugin attaches nothing. It gives the addresses of eth0 where it runs for
// those of the pod, so that the result tells in which namespace that was, and
// keeps what it was told in the configuration's dataDir.
func plugin(command string) error {
	var conf struct {
		CNIVersion, Name, SubnetFile, DataDir string
		IPAM                                  struct{ DataDir string }
	}
	if err := json.NewDecoder(os.Stdin).Decode(&conf); err != nil {
		return err
	}
	if command == "VERSION" {
		fmt.Print(`{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}`)
		return nil
	}
	if _, err := os.Stat(conf.SubnetFile); err != nil {
		return err
	}
	said := filepath.Join(conf.DataDir, os.Getenv("CNI_CONTAINERID"))
	if command == "DEL" {
		return os.Remove(said)
	}
	if err := os.MkdirAll(conf.DataDir, 0o755); err != nil {
		return err
	}
	told := fmt.Sprintf("%s %s %s %s", conf.Name, os.Getenv("CNI_NETNS"), os.Getenv("CNI_IFNAME"), conf.IPAM.DataDir)
	if err := os.WriteFile(said, []byte(told), 0o600); err != nil {
		return err
	}
	iface, err := net.InterfaceByName(Eth0)
	if err != nil {
		return err
	}
	addrs, err := iface.Addrs()
	if err != nil {
		return err
	}
	ips := []map[string]string{}
	for _, a := range addrs {
		if netip.MustParsePrefix(a.String()).Addr().IsGlobalUnicast() {
			ips = append(ips, map[string]string{"address": a.String()})
		}
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"cniVersion": conf.CNIVersion, "ips": ips})
}

func TestPodIsAttachedByAPluginOnTheNode(t *testing.T) {
	t.Parallel()
	topo := newTopology(t, 2, dualStack...)
	node := topo.Nodes[1]
	if err := os.WriteFile(node.SubnetFile(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}

	pod, err := node.AddPod(within(t, 30*time.Second), self, "a")
	if err != nil {
		t.Fatal(err)
	}

	if diff := cmp.Diff(node.Addrs, pod.Addrs, compareAddrs); diff != "" {
		t.Errorf("where the plugin ran (-the node +have):\n%s", diff)
	}
	said := filepath.Join(node.Dir, "cni", pod.Name)
	have, err := os.ReadFile(said)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("cbr0 /run/netns/%s eth0 %s", pod.Name, filepath.Join(node.Dir, "networks"))
	if diff := cmp.Diff(want, string(have)); diff != "" {
		t.Errorf("what the plugin was told (-want +have):\n%s", diff)
	}

	if err := pod.Delete(within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(said); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the plugin did not see DEL: %v", err)
	}
	if _, err := os.Stat(pod.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pod's namespace is left: %v", err)
	}
}

func TestPodThatCannotBeAttachedIsRemoved(t *testing.T) {
	t.Parallel()
	topo := newTopology(t, 1, dualStack...)
	node := topo.Nodes[0]
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// There is no subnet.env, so the plugin refuses.
	for name, plugin := range map[string]string{"refusing plugin": self, "missing plugin": "/nowhere/weft"} {
		if _, err := node.AddPod(within(t, 30*time.Second), plugin, "a"); err == nil {
			t.Errorf("%s: the pod was attached", name)
		}
		if _, err := os.Stat(filepath.Join(namesDir, node.Name+"-a")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the pod's namespace is left: %v", name, err)
		}
	}
	if _, err := node.AddPod(within(t, 30*time.Second), self, "1"); err == nil {
		t.Error("a pod's name like a node's number was taken")
	}
}
