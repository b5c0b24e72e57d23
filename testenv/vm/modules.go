package vm

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// A module is one kernel module, as its .modinfo section describes it.
type module struct {
	file    string // relative to /lib/modules/RELEASE
	depends []string
	aliases []string
}

// moduleSet are modules by name, with underscores for dashes.
type moduleSet map[string]module

// readModules reads every module below dir.
func readModules(dir string) (moduleSet, error) {
	set := moduleSet{}
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(file, ".ko") {
			return err
		}
		m, err := readModule(file)
		if err != nil {
			return fmt.Errorf("module %s: %w", file, err)
		}
		if m.file, err = filepath.Rel(dir, file); err != nil {
			return err
		}
		set[moduleName(strings.TrimSuffix(filepath.Base(file), ".ko"))] = m
		return nil
	})
	return set, err
}

func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

func readModule(file string) (module, error) {
	f, err := elf.Open(file)
	if err != nil {
		return module{}, err
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return module{}, fmt.Errorf("no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return module{}, err
	}
	return parseModinfo(info), nil
}

// parseModinfo reads NUL-separated key=value pairs.
func parseModinfo(info []byte) module {
	var m module
	for pair := range bytes.SplitSeq(info, []byte{0}) {
		key, value, _ := strings.Cut(string(pair), "=")
		switch key {
		case "depends":
			for d := range strings.SplitSeq(value, ",") {
				if d != "" {
					m.depends = append(m.depends, moduleName(d))
				}
			}
		case "alias":
			m.aliases = append(m.aliases, value)
		}
	}
	return m
}

// closure lists the named modules and what they depend on, dependencies
// first. Modules that the set lacks are left out: the kernel has them built
// in or the guest does without.
func (s moduleSet) closure(names ...string) []string {
	var order []string
	var visit func(string)
	visit = func(name string) {
		m, ok := s[name]
		if !ok || slices.Contains(order, name) {
			return
		}
		for _, d := range m.depends {
			visit(d)
		}
		order = append(order, name)
	}
	for _, n := range names {
		visit(moduleName(n))
	}
	return order
}

// dep is modules.dep as depmod writes it: a file, and the files it needs,
// nearest first.
func (s moduleSet) dep() []byte {
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(s)) {
		fmt.Fprintf(&b, "%s:", s[name].file)
		needs := s.closure(name)
		slices.Reverse(needs)
		for _, n := range needs[1:] {
			fmt.Fprintf(&b, " %s", s[n].file)
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// alias is modules.alias: by what names the kernel asks for a module.
func (s moduleSet) alias() []byte {
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(s)) {
		for _, a := range s[name].aliases {
			fmt.Fprintf(&b, "alias %s %s\n", a, name)
		}
	}
	return b.Bytes()
}
