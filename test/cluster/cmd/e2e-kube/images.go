package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/weftnet/weft/test/cluster/image"
	"github.com/weftnet/weft/test/cluster/kube"
)

// writeImages makes the archives of all that pods run, but weft's own.
func writeImages(bin, dir string) error {
	from := func(name string) string { return filepath.Join(bin, name) }
	server, err := agnhost(from)
	if err != nil {
		return err
	}
	images := map[string]image.Image{
		"pause": {
			Tags: []string{kube.Pause}, Files: map[string]string{"/pause": from("pause")}, Entrypoint: []string{"/pause"},
		},
		"coredns": {
			Tags:  []string{"registry.k8s.io/coredns/coredns:v1.13.1"},
			Files: map[string]string{"/coredns": from("coredns")}, Entrypoint: []string{"/coredns"},
		},
		"proxy": {
			Tags:  []string{"weft.test/proxy:e2e"},
			Files: map[string]string{"/proxy": from("proxy")}, Entrypoint: []string{"/proxy"},
		},
		"agnhost": server,
		"regression": {
			Tags:       []string{tests + "regression-issue-74839:1.2"},
			Files:      map[string]string{"/regression": from("regression-issue-74839")},
			Entrypoint: []string{"/regression"},
		},
	}
	for name, i := range images {
		if err := i.Write(filepath.Join(dir, name+".tar")); err != nil {
			return fmt.Errorf("image %s: %w", name, err)
		}
	}
	return nil
}

const tests = "registry.k8s.io/e2e-test-images/"

// agnhost is the test pod of Kubernetes, with the shell and the programs that
// its tests call in it, and stands for the other images that they take for the
// sake of one program.
func agnhost(from func(string) string) (image.Image, error) {
	i := image.Image{
		Tags: []string{
			tests + "agnhost:2.56", tests + "busybox:1.37.0-1", tests + "jessie-dnsutils:1.7", tests + "nginx:1.14-4",
			"registry.k8s.io/build-image/distroless-iptables:v0.7.14",
		},
		Files: map[string]string{
			"/agnhost": from("agnhost"), "/coredns": from("coredns"),
			"/localhost.crt": from("localhost.crt"), "/localhost.key": from("localhost.key"),
			"/etc/nsswitch.conf": "/etc/nsswitch.conf", // libc's default order is DNS first, and then nothing
		},
		Links:      map[string]string{"/agnhost-2": "agnhost", "/bin/sh": "/usr/bin/dash"}, // busybox's has an nc of its own
		Entrypoint: []string{"/agnhost"},
		Cmd:        []string{"pause"},
		Env:        []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
	}
	for _, applet := range []string{
		"cat", "echo", "sleep", "nslookup", "ip", "hostname", "ls", "seq", "date", "test", "true",
		"timeout", "grep", "awk", "sort", "uniq", "wc", "head", "tail", "mkdir", "rm", "cp", "mv", "touch", "ping",
		"sed", "tr", "cut", "env", "id", "ps", "kill", "netstat", "printf", "stat", "chmod", "ln", "ping6", "tee", "base64",
	} {
		i.Links["/bin/"+applet] = "/usr/bin/busybox"
	}
	for _, program := range []string{"busybox", "dash", "bash", "curl", "wget", "nc", "dig", "getent", "conntrack"} {
		if err := add(&i, program); err != nil {
			return image.Image{}, err
		}
	}
	return i, nil
}

func copyFile(from, to string) error {
	raw, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, raw, 0o600)
}

// add puts a program of this machine into the image, with the libraries that
// it is linked to, where it looks for them.
func add(i *image.Image, program string) error {
	path, err := exec.LookPath(program)
	if err != nil {
		return err
	}
	out, err := exec.Command("ldd", path).Output()
	if err != nil {
		return fmt.Errorf("ldd %s: %w", path, err)
	}
	i.Files["/usr/bin/"+program] = path
	for line := range strings.Lines(string(out)) {
		for _, word := range strings.Fields(line) {
			if strings.HasPrefix(word, "/") {
				i.Files[word] = word
			}
		}
	}
	return nil
}
