package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"github.com/lvx-lb/lvx/pkg/guard"
)

// MaxSize is the size of the largest file that is read, in bytes.
const MaxSize = 16 << 20

// maxAliased is how many values aliases may add to those of the file.
const maxAliased = 1 << 20

// Load reads and validates the configuration file at path. Mistakes in it are
// an [Error], one line that begins with path and line number.
func Load(path string) (*Config, error) { return new(Reader).Load(path) }

// contents reads a file that may be a configuration.
func contents(path string) (text []byte, mode fs.FileMode, err error) {
	// Without O_NONBLOCK, opening a named pipe would wait for its writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, unreadable(path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, unreadable(path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("configuration %s: not a regular file (want a file, found mode %s)", printable(path), info.Mode())
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, 0, unreadable(path, err)
	}
	return data, info.Mode(), nil
}

// seenWith is c with what there is to say about its file: whom it is readable
// and writable for. A file that others can write to is theirs to say what runs
// as root: its programs are left out.
func (c *Config) seenWith(path string, mode fs.FileMode) *Config {
	if c == nil {
		return nil
	}
	if err := guard.OnlyRootWrites(path); err != nil && os.Geteuid() == 0 {
		c = c.withoutPrograms(err)
	}
	if mode&0o004 == 0 || !c.secret() {
		return c
	}
	warned := *c
	warned.Warnings = append(slices.Clone(c.Warnings), fmt.Sprintf(
		"%s: holds auth_pass and everybody can read it, mode %#o (want chmod o-r)", printable(path), mode.Perm()))
	return &warned
}

// withoutPrograms is c without the commands that would run as root. Checks run
// as nobody and stay.
func (c *Config) withoutPrograms(why error) *Config {
	safe := *c
	text := fmt.Sprintf("the configuration is not root's alone: %v", why)
	if len(c.Notify.Exec)+len(c.Programs()) > 0 {
		text += "; the programs of notify and hooks are not run"
	}
	safe.Warnings = append(slices.Clone(c.Warnings), text)
	safe.Notify.Exec, safe.RoleHooks, safe.BGP.Hook.Exec = nil, nil, nil
	safe.Services = slices.Clone(c.Services)
	for i := range safe.Services {
		s := &safe.Services[i]
		s.Hooks = Hooks{}
		s.Own = slices.Clone(s.Own)
		for j := range s.Own {
			s.Own[j].Hooks = RealHooks{}
		}
	}
	return &safe
}

// unreadable keeps a path that does not print out of the error.
func unreadable(path string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return fmt.Errorf("configuration %s: %w", printable(path), err)
}

// secret reports whether the file holds something that is.
func (c *Config) secret() bool {
	for _, inst := range c.VRRP {
		if inst.AuthPass != "" {
			return true
		}
	}
	return false
}

// Parse validates a configuration and fills its defaults. Name stands for the
// file in errors, which are of type [*Error]: of several mistakes, the one
// that comes first.
func Parse(name string, data []byte) (*Config, error) {
	if len(data) > MaxSize {
		return nil, &Error{File: name, Line: 1, Text: fmt.Sprintf("file is too large (want at most %d MiB)", MaxSize>>20)}
	}
	node, err := tree(name, data)
	if err != nil {
		return nil, err
	}
	d := &decoder{name: name, nodes: len(data) + maxAliased, taken: map[string]int{}}
	cfg := d.config(d.root(node))
	if d.first != nil {
		return nil, d.first
	}
	cfg.Warnings = d.warnings
	return cfg, nil
}
