# SPDX-License-Identifier: Apache-2.0
"""The one gate: every path, mode and link that enters, whichever way it comes.
Takes archives, folders, git trees and a wheel's members.
Gives entries that are safe to keep, or the entry's name, escaped, and what is wrong with it.
"""
