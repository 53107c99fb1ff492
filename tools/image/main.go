// Command image builds weft's container image without a container engine: the
// static binaries, for each architecture, in an OCI archive that containerd,
// CRI-O, podman and Docker import. Two builds of one commit give the same
// bytes.
package main

import (
	"archive/tar"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "image: %v\n", err)
		os.Exit(1)
	}
}

// options are what to build, and from what.
type options struct {
	root    string   // of the repository
	bin     string   // the binaries are left in <bin>/linux_<arch>
	out     string   // the archive
	name    string   // of the image, as manifests have it
	version string   // stamped into the binaries and the image
	arches  []string // as Go has them
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	var o options
	var arches string
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.StringVar(&o.root, "root", "..", "`directory` of the repository")
	flags.StringVar(&o.bin, "bin", "../bin", "`directory` for the binaries")
	flags.StringVar(&o.out, "out", "../bin/weft-image.tar", "`file` for the archive")
	flags.StringVar(&o.name, "name", "weftnet/weft:edge", "`name:tag` of the image")
	flags.StringVar(&o.version, "version", "unknown", "`version` to stamp")
	flags.StringVar(&arches, "arches", "amd64,arm64", "comma list of `architectures`")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	o.arches = strings.Split(arches, ",")
	for _, arch := range o.arches {
		if err := build(ctx, o, arch); err != nil {
			return err
		}
	}
	digest, err := o.assemble()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "built %s: %s for %s\n%s\n", o.out, o.name, arches, digest)
	return err
}

func (o options) binaries(arch string) string { return filepath.Join(o.bin, "linux_"+arch) }

// build makes the binaries of one architecture by `make build`, so that they are the
// same to the byte.
func build(ctx context.Context, o options, arch string) error {
	dir, err := filepath.Abs(o.binaries(arch))
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "make", "-C", o.root, "build", "VERSION="+o.version, "PROGRAMS="+dir)
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build for %s: %w", arch, err)
	}
	return nil
}

// assemble makes the archive out of the binaries, and gives the image's digest.
func (o options) assemble() (string, error) {
	index, err := o.index()
	if err != nil {
		return "", err
	}
	layout, err := os.MkdirTemp("", "weft-image-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(layout) }()
	digest, err := write(layout, index, o.name)
	if err != nil {
		return "", fmt.Errorf("write the image: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(o.out), 0o755); err != nil {
		return "", err
	}
	if err := pack(layout, o.out); err != nil {
		return "", fmt.Errorf("write %s: %w", o.out, err)
	}
	return digest, nil
}

// pack makes a tar archive of a directory, the same each time.
func pack(dir, out string) error {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error { // in alphabetical order
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if e.IsDir() {
			return w.WriteHeader(directory(name))
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(regular(name, len(content), 0o644)); err != nil {
			return err
		}
		_, err = w.Write(content)
		return err
	})
	return errors.Join(err, w.Close(), f.Close())
}
