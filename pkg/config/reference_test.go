package config

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// understood reads a configuration and collects the keys that it could have.
func understood(t *testing.T, data string) map[string]bool {
	t.Helper()
	node, err := tree("reference.yaml", []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	d := &decoder{name: "reference.yaml", nodes: maxAliased, taken: map[string]int{}, keys: map[string]bool{}}
	d.config(d.root(node))
	if d.first != nil {
		t.Fatal(d.first)
	}
	return d.keys
}

// written collects the keys of a YAML tree.
func written(n *yaml.Node, path string, keys map[string]bool) {
	for i, v := range n.Content {
		switch {
		case n.Kind != yaml.MappingNode:
			written(v, path, keys)
		case i%2 == 1:
			key := strings.TrimPrefix(path+"."+n.Content[i-1].Value, ".")
			keys[key] = true
			written(v, key, keys)
		}
	}
}

// plainKey takes the brackets off and finds all checks in one place.
func plainKey(key string) string {
	key = strings.ReplaceAll(key, "[]", "")
	return strings.Replace(key, "services.reals.check", "services.check", 1)
}

// The reference has every key that is understood, if only in a comment, and
// it is a configuration.
func TestReferenceIsComplete(t *testing.T) {
	node, err := tree("reference.yaml", []byte(Reference()))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	written(node, "", all)
	has := map[string]bool{}
	for key := range all {
		has[plainKey(key)] = true
	}
	known := understood(t, Reference())
	if len(known) < 90 {
		t.Errorf("the reference leads to %d keys only", len(known))
	}
	for _, key := range slices.Sorted(maps.Keys(known)) {
		key = plainKey(key)
		last := key[strings.LastIndex(key, ".")+1:]
		if !has[key] && !regexp.MustCompile(`(?m)^ *# `+last+`: `).MatchString(Reference()) {
			t.Errorf("the reference does not have %s", key)
		}
	}
}

// Every key of the reference says what holds without it, on its line or in
// the paragraph above it.
func TestReferenceNamesDefaults(t *testing.T) {
	key := regexp.MustCompile(`^( *)(?:- )?([a-z_]+):(.*)$`)
	said := regexp.MustCompile(`(?i)default|required|without`)
	paragraph := ""
	sections := []string{"timeouts", "tables", "persistence", "reals", "check", "services", "vrrp", "notify", "admin", "smtp"}
	seen := map[string]bool{}
	for i, line := range strings.Split(Reference(), "\n") {
		trimmed := strings.TrimSpace(line)
		switch m := key.FindStringSubmatch(line); {
		case strings.HasPrefix(trimmed, "#"):
			paragraph += trimmed
		case trimmed == "":
			paragraph = ""
		case m != nil && !seen[m[2]] && !slices.Contains(sections, m[2]):
			seen[m[2]] = true
			if !said.MatchString(m[3]) && !said.MatchString(paragraph) {
				t.Errorf("line %d: %s without its default", i+1, m[2])
			}
		}
	}
}

// Defaults that the reference names are those that hold.
func TestReferenceDefaultsHold(t *testing.T) {
	pair := regexp.MustCompile(`(?m)^ *(?:- )?([a-z_]+): (\S+) .*; default (\S+)$`)
	found := pair.FindAllStringSubmatch(Reference(), -1)
	if len(found) < 20 {
		t.Fatalf("found %d defaults only", len(found))
	}
	for _, m := range found {
		key, value, text := m[1], m[2], m[3]
		switch key {
		case "path", "status", "query", "qtype", "sni", "retry_delay", "forward":
			continue // shown with something more telling than the default
		}
		if text != "none" && value != text {
			t.Errorf("%s is %s, its default is said to be %s", key, value, text)
		}
	}
}
