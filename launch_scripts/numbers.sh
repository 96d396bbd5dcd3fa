# shellcheck shell=bash
# Sourced by the other scripts: arguments that are numbers.
#
# numbers LEAST NAME... ends the script with code 2 where the variable of such a
# name is no number or below LEAST. It is decimal from then on, 08 being 8;
# arithmetic would read it as octal. Two dashes before a name are an option's.

numbers() {
  local least=$1 name variable
  shift
  for name in "$@"; do
    variable=${name#--}
    if [[ ! ${!variable} =~ ^[0-9]{1,9}$ ]] ||
      ((10#${!variable} < least)); then
      echo "${0##*/}: $name is a number from $least on, not" \
        "${!variable:-empty}" >&2
      exit 2
    fi
    printf -v "$variable" %d $((10#${!variable}))
  done
}
