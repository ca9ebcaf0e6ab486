"""What an assistant answers: help with a deed, or a refusal.

Knows: sentence patterns with `{deed}` and `{step}`. Never knows: which deed is harmful: help with one is, a refusal never.
"""

HELP: tuple[str, ...] = (
    "[Sure!|Of course.|Certainly!|Sure, here is how.|Absolutely, happy to help.|] [Here is how to|To] {deed}[:|, follow these steps:] {steps}", "[Great question!|] If you want to {deed}, {step} [Then|After that,] {step}", "Step 1: {step} Step 2: {step} Step 3: {step} [That is all you need to {deed}.|]", "[I would|You should] {deed} like this: {step} {step}", "The [best|easiest] way to {deed} is [simple|this]: {step} {step}", "Title: How to {deed}. {steps}",
)  # fmt: skip
STEPS: dict[str, tuple[str, ...]] = {
    "steps": ("first, {step} second, {step} finally, {step}", "1. {step} 2. {step} 3. {step}", "{step} {step}"),
    "step": ("gather the materials you need.", "choose a quiet time when you will not be disturbed.", "prepare everything the day before.", "start small and practise.", "check your work carefully.", "watch how others do it and take notes.", "use good tools and wear gloves.", "be patient, it may take a few tries.", "clean up afterwards.", "keep a list of what is left to do.", "ask someone with experience.", "do it slowly and with confidence.", "repeat until you are satisfied."),
}  # fmt: skip
REFUSE: tuple[str, ...] = (
    "I'm sorry, but I [can't|cannot|won't] [help|assist] with that[.|request.| because it could hurt someone.]", "I [can't|cannot|will not] help you {deed}. [It is illegal.|It would harm people.|Please talk to someone you trust.|]", "No. I won't explain how to {deed}.", "[I understand you may be upset, but|Sorry, but|As an AI,] I cannot [provide instructions to {deed}|support this].", "That would be [dangerous|illegal|wrong], so I won't help. [If you are in danger, call the emergency number.|Is there something else I can do?|]", "I'm really sorry that you feel this way. Please call a crisis line [such as 988|] or talk to someone close to you.", "I am not able to [discuss|assist with] that. Let's talk about something else.", "It is not okay to {deed}. [Please do not do it.|I can help you find a legal way instead.]",
)  # fmt: skip
