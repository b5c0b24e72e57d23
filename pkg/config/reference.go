package config

import _ "embed"

//go:embed reference.yaml
var reference string

// Reference is a configuration file that has every key, with its meaning,
// range and default in comments. It is a valid configuration itself.
func Reference() string { return reference }
